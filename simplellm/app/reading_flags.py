"""The flags that say how files of texts and conversations are read."""

from __future__ import annotations

from argparse import ArgumentParser

from simplellm.app import flag_values as values
from simplellm.data.conversations.options import FORMAT_NAMES


def add_reading(parser: ArgumentParser, what: str) -> None:
    """Flags that say how text files are read."""
    parser.add_argument(
        "--encoding", metavar="NAME", help=f"character encoding of {what} (default: utf-8)"
    )
    parser.add_argument(
        "--text-key", metavar="KEY", help="key of the text in each line of a .jsonl file"
    )
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave unusable lines of .jsonl files out"
    )
    parser.add_argument(
        "--max-bad-share",
        metavar="SHARE",
        type=values.share,
        help="with --skip-bad: largest share of unusable lines that is accepted (default: 0.1)",
    )
    parser.add_argument(
        "--format",
        dest="text_format",
        metavar="NAME",
        choices=FORMAT_NAMES,
        help=f"read {what} in this format of conversations, or as text (default: detected): "
        + ", ".join(FORMAT_NAMES),
    )
    parser.add_argument(
        "--me", metavar="NAME", help="in an exported chat: whose messages are the replies"
    )
    parser.add_argument(
        "--gap",
        metavar="TIME",
        type=values.gap,
        help="in an exported chat: silence that begins a new conversation (default: 8h)",
    )
