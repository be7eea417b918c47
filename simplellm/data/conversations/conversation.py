"""A conversation: turns of a system message, a user and an assistant, whose replies are learned.

What a reader gives is in normal form (see normal_form.py): no turn is empty, no role speaks twice
in a row, the last turn is a reply, and at least one reply follows a user's turn.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

SYSTEM = "system"
USER = "user"
ASSISTANT = "assistant"
ROLES = (SYSTEM, USER, ASSISTANT)
DIGEST_BYTES = 16


@dataclass(frozen=True)
class Turn:
    """What one role says.

    role: one of ROLES. name: who spoke, where the source says so; a turn that joins messages of
    several people has none. is_learned: False for a reply that is context only (`"weight": 0`).
    """

    role: str
    text: str
    name: str | None = None
    is_learned: bool = True

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"a role is one of {', '.join(ROLES)}, not {self.role!r}")

    @property
    def is_reply(self) -> bool:
        """Whether the loss counts this turn."""
        return self.role == ASSISTANT and self.is_learned


@dataclass(frozen=True)
class Conversation:
    """Turns in order. `source`: file and line where it begins, for messages."""

    turns: tuple[Turn, ...]
    source: str

    @property
    def replies(self) -> tuple[Turn, ...]:
        """The turns to learn, in order."""
        return tuple(turn for turn in self.turns if turn.is_reply)

    @property
    def has_reply(self) -> bool:
        """Whether a turn to learn comes after a turn of the user."""
        roles = [turn.role for turn in self.turns]
        first = roles.index(USER) if USER in roles else len(roles)
        return any(turn.is_reply for turn in self.turns[first:])

    @property
    def content(self) -> tuple[tuple[str, str, bool], ...]:
        """Role, text and `is_learned` of each turn; equal for duplicates.

        Names and white space at the end of a turn make no difference.
        """
        return tuple((turn.role, turn.text.rstrip(), turn.is_learned) for turn in self.turns)

    @property
    def digest(self) -> bytes:
        """DIGEST_BYTES bytes that are equal for equal content only."""
        return hashlib.blake2b(repr(self.content).encode(), digest_size=DIGEST_BYTES).digest()

    @property
    def n_characters(self) -> int:
        return sum(len(turn.text) for turn in self.turns)

    @property
    def n_reply_characters(self) -> int:
        return sum(len(turn.text) for turn in self.replies)
