"""The flags of the commands that generate text: `chat`, `generate`, `analyze`, `serve`."""

from __future__ import annotations

import argparse
from argparse import ArgumentParser

from simplellm.app import flag_values as values
from simplellm.app.flags import NEW_FILE, add_model_flags, add_settings
from simplellm.config.sampling import SamplingParams
from simplellm.storage.user_paths import expand_user


def add_chat_flags(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--no-history",
        dest="keep_history",
        action="store_false",
        help="save neither the input history nor the conversation",
    )
    parser.add_argument(
        "--continue",
        dest="continue_last",
        action="store_true",
        help="continue the last conversation; with --run, the last one of that run",
    )
    _add_system(parser)
    add_settings(parser, SamplingParams)
    add_model_flags(parser)


def add_generate_flags(parser: ArgumentParser) -> None:
    add_settings(parser, SamplingParams)
    add_model_flags(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    _add_prompt(what, required=False)
    what.add_argument(
        "--messages",
        metavar="FILE",
        type=expand_user,
        help='answer a JSON list of messages ([{"role": "user", "content": "Hello"}]) by the chat '
        "template of the model; - reads stdin",
    )
    parser.add_argument(
        "--chat",
        action="store_true",
        help="answer --prompt as one message, by the chat template of the model; without it the "
        "prompt is continued as text, also by a chat model",
    )
    _add_system(parser)
    parser.add_argument(
        "--probs",
        action="store_true",
        help="shade each token by its probability; with --json, add the probability, rank and "
        "entropy of each token",
    )


def add_analyze_flags(parser: ArgumentParser) -> None:
    add_settings(parser, SamplingParams)
    add_model_flags(parser)
    _add_prompt(parser)
    parser.add_argument(
        "--top", metavar="N", type=values.n_candidates, help="number of candidates (default: 10)"
    )
    parser.add_argument(
        "--save",
        metavar="FILE",
        type=values.path,
        help=f"save the candidates as a picture in {NEW_FILE}",
    )


def add_serve_flags(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--host",
        metavar="ADDRESS",
        help="address to listen on; one that other machines can reach needs an API key "
        "(default: 127.0.0.1)",
    )
    parser.add_argument(
        "--port",
        metavar="N",
        type=values.port,
        help="port to listen on; 0 is any free one (default: 8080)",
    )
    parser.add_argument(
        "--api-key",
        metavar="KEY",
        help="key that requests must have (default: the environment variable SIMPLELLM_API_KEY, "
        "which other users cannot see in the list of processes)",
    )
    parser.add_argument(
        "--allow-host",
        dest="allowed_hosts",
        action="append",
        metavar="NAME",
        help="further name of the server in requests, such as that of a proxy before it",
    )
    parser.add_argument(
        "--cors-origin",
        dest="cors_origins",
        action="append",
        metavar="ORIGIN",
        help="web pages elsewhere that may call the server, such as https://chat.example.org "
        "(default: none)",
    )
    add_settings(parser, SamplingParams)
    add_model_flags(parser)


def _add_system(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--system",
        metavar="TEXT",
        help="system message for a chat model, before all others (with generate, implies --chat)",
    )


def _add_prompt(parser: argparse._ActionsContainer, required: bool = True) -> None:
    parser.add_argument(
        "--prompt",
        metavar="TEXT",
        required=required,
        help="text to continue (one line end at its end is removed); - reads stdin",
    )
