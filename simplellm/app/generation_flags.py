"""The flags of the commands that generate text: `chat`, `generate`, `analyze`."""

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
