"""Options of reading conversations, and the parsing of `--gap`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from simplellm.errors import SettingError

TEXT = "text"  # the name that forces reading as a text
FORMAT_NAMES = (  # values of --format, without the readers, which take longer to import
    TEXT, "saved", "telegram", "messages", "sharegpt", "alpaca", "prompt", "chatterbot",
    "whatsapp", "kakaotalk", "transcript",
)  # fmt: skip
DEFAULT_GAP_SECONDS = 8 * 3600.0  # a night (guess)
SECONDS_PER_UNIT = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class ReadOptions:
    """How conversations are read.

    format: name of a format; None detects it. me: name of the person whose messages are the
    replies, in chat exports and transcripts. gap_seconds: a longer silence in a chat export begins
    a new conversation.
    """

    format: str | None = None
    me: str | None = None
    gap_seconds: float = DEFAULT_GAP_SECONDS


def parse_gap(text: str) -> float:
    """Seconds of `8h`, `30m`, `2d`, `90s`; SettingError for anything else and for 0."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?)([smhd])", text.strip().lower(), re.ASCII)
    seconds = float(match[1]) * SECONDS_PER_UNIT[match[2]] if match else 0.0
    if not seconds:
        raise SettingError(
            f"gap is a time such as 30m, 8h or 2d, not {text[:40]!r}", fix="for example --gap 8h"
        )
    return seconds
