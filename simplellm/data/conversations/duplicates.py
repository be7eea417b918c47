"""Conversations that occur more than once: equal ones, nearly equal ones, and beginnings of others.

Equal conversations are left out, as equal documents are, before the split: a second copy, one in
the training and one in the validation part, would make the validation loss meaningless.

Conversations that are equal but for capital letters, punctuation, white space and system messages,
and those that begin with all turns of another long one, may both teach something. They stay, but on
one side of the split (`related`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

from simplellm.data.conversations.conversation import DIGEST_BYTES, SYSTEM, Conversation
from simplellm.data.shared_passages import MIN_PASSAGE
from simplellm.errors import Notice

NO_LETTERS = re.compile(r"[\W_]+")


def without_duplicates(
    conversations: Iterable[Conversation], notice: Notice = lambda text: None
) -> list[Conversation]:
    """The first of equal conversations, in order; a notice says how many are left out."""
    first: dict[bytes, Conversation] = {}
    given = list(conversations)
    for conversation in given:
        first.setdefault(conversation.digest, conversation)
    if len(first) < len(given):
        notice(f"left out: {len(given) - len(first):,} conversations that occur more than once")
    return list(first.values())


def without_those_of(
    conversations: Iterable[Conversation],
    held_out: Iterable[Conversation],
    notice: Notice = lambda text: None,
) -> list[Conversation]:
    """The conversations that are not related to one of `held_out`, a separate validation set."""
    given, others = list(conversations), list(held_out)
    groups = related([*given, *others])
    excluded = {groups[number] for number in range(len(given), len(groups))}
    kept = [one for one, group in zip(given, groups, strict=False) if group not in excluded]
    if len(kept) < len(given):
        notice(
            f"left out of the training data: {len(given) - len(kept):,} conversations "
            "that are also in the validation data"
        )
    return kept


def related(conversations: Sequence[Conversation]) -> list[int]:
    """The group of each conversation: the number of its first one.

    Two conversations are in one group if they are equal, or if one begins with all turns of the
    other and these have MIN_PASSAGE letters and digits: many chats begin with the same greeting.
    Capital letters, punctuation, white space and system messages make no difference. Time is linear
    in the number of characters.
    """
    beginnings = [_beginnings(one) for one in conversations]
    first = {found[-1]: number for number, found in reversed(list(enumerate(beginnings)))}
    groups = list(range(len(beginnings)))
    for number, found in enumerate(beginnings):
        for one in found:
            if one in first:
                _unite(groups, number, first[one])
    return [_root(groups, number) for number in range(len(groups))]


def _beginnings(conversation: Conversation) -> list[bytes]:
    """Digests of the long beginnings of the conversation, the last one of the whole."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    n_letters = 0
    found = [digest.digest()]
    for turn in conversation.turns:
        if turn.role == SYSTEM:
            continue
        letters = NO_LETTERS.sub("", turn.text.casefold()) or turn.text.strip()
        if n_letters < MIN_PASSAGE:
            found.clear()
        digest.update(repr((turn.role, letters)).encode())
        found.append(digest.digest())
        n_letters += len(letters)
    return found


def _unite(groups: list[int], one: int, other: int) -> None:
    """Make one group of two; its number is the smaller one."""
    first, second = sorted((_root(groups, one), _root(groups, other)))
    groups[second] = first


def _root(groups: list[int], number: int) -> int:
    while groups[number] != number:
        groups[number] = groups[groups[number]]
        number = groups[number]
    return number
