"""What a reader finds in a file: conversations before their normal form, and bad records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from simplellm.data.conversations.conversation import Turn
from simplellm.errors import TextError

MAX_KEYS_SHOWN = 5
MAX_QUOTE = 40


class Found(NamedTuple):
    """One conversation of a file. where: its line, for messages, such as `line 3`."""

    where: str
    turns: Sequence[Turn] | TextError


class BadRecord(Exception):
    """A record that cannot be used. The message follows the place: `a.jsonl line 3 has ...`."""

    def __init__(self, what: str, *, fix: str = "correct it, or use --skip-bad") -> None:
        super().__init__(what)
        self.fix = fix


def keys_of(record: dict[str, Any]) -> str:
    """The first keys of a record, for messages."""
    keys = ", ".join(repr(key[:MAX_QUOTE]) for key in list(record)[:MAX_KEYS_SHOWN]) or "none"
    return keys + (", ..." if len(record) > MAX_KEYS_SHOWN else "")
