"""The split of conversations into training and validation data, by whole conversations."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from simplellm.data.conversations.conversation import Conversation
from simplellm.data.conversations.duplicates import related
from simplellm.errors import TextError


@dataclass(frozen=True)
class Split:
    """Training and validation conversations, both in the order in which they were given."""

    train: tuple[Conversation, ...]
    held_out: tuple[Conversation, ...]


def split_conversations(conversations: Sequence[Conversation], fraction: float, seed: int) -> Split:
    """Hold out about `fraction` of the characters of the replies, in whole conversations.

    The choice depends on the content of the conversations, their order and the seed only. Related
    conversations (see duplicates.py) are on one side. Both sides have at least one; TextError if
    that is impossible. `fraction` 0 holds out nothing.
    """
    if not fraction:
        return Split(tuple(conversations), ())
    groups = related(conversations)
    sizes = dict.fromkeys(groups, 0)
    for conversation, group in zip(conversations, groups, strict=True):
        sizes[group] += conversation.n_reply_characters
    if len(sizes) < 2:
        n = len(conversations)
        raise TextError(
            f"{n} conversation{'s' * (n != 1)} cannot be split into training and validation data",
            fix="use more conversations, --val-data FILE, or for a chat a shorter --gap",
        )
    order = sorted(sizes, key=lambda group: _draw(conversations[group], seed))
    chosen = _fill(order, sizes, fraction)
    sides = list(zip(conversations, groups, strict=True))
    return Split(
        tuple(one for one, group in sides if group not in chosen),
        tuple(one for one, group in sides if group in chosen),
    )


def _draw(conversation: Conversation, seed: int) -> bytes:
    """A pseudo-random key of a conversation."""
    return hashlib.blake2b(f"{seed}:".encode() + conversation.digest, digest_size=16).digest()


def _fill(order: Sequence[int], sizes: dict[int, int], fraction: float) -> set[int]:
    """The first groups in `order` that together stay below the share; at least one, never all."""
    target = fraction * sum(sizes.values())
    chosen: set[int] = set()
    filled = 0
    for group in order:
        if filled + sizes[group] <= target:
            chosen.add(group)
            filled += sizes[group]
    return chosen or {min(order, key=lambda group: sizes[group])}
