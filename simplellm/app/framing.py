"""What the model reads before a reply: the newest turns that fit, as text or by a chat template.

Room is left for the reply: its maximum length, or half the context if that is less (a full context
loses its older half, see inference/sampler.py). Turns are left out as a whole, the oldest ones
first.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from simplellm.app.conversation import Turn
from simplellm.data.chat_template import ChatTemplate
from simplellm.data.conversations import conversation as roles
from simplellm.inference.sampler import Sampler

TURN_END = "\n"  # between a turn and the next prompt
LONGEST_TOKEN = 512  # characters: longer words and runs are split before, see data/tokenizer.py
CUT_STEP = 8  # tokens that a prompt loses at once until it fits


@dataclass(frozen=True)
class Reading:
    """What the model reads before a reply.

    turn_ids: the ids at its end that belong to the turn. n_left_out: earlier turns that are left
    out, or of which only a part is kept: `n_part` tokens of the newest one. notes: for the user.
    """

    ids: list[int]
    turn_ids: tuple[int, ...] = ()
    n_left_out: int = 0
    n_part: int = 0
    notes: tuple[str, ...] = ()


class Framing(Protocol):
    """How turns become ids. `turns` may get the ids of texts that are encoded."""

    @property
    def limit(self) -> int:
        """Tokens that the earlier turns and a prompt may have together."""

    def before_reply(self, turns: list[Turn], n_earlier: int, prompt: str) -> Reading:
        """What is read before a reply to `prompt`, after the first `n_earlier` turns."""

    def before_more(self, turns: list[Turn], number: int) -> Reading:
        """What is read before the reply of a turn is continued."""

    def n_tokens(self, turns: list[Turn], typed: str) -> int:
        """Tokens that the model would read if `typed` were sent. Encodes only `typed`."""


@dataclass(frozen=True)
class TextFraming:
    """Turns as text. Without `keeps_context` each prompt stands alone."""

    sampler: Sampler
    n_for_reply: int
    keeps_context: bool

    @property
    def limit(self) -> int:
        return self.sampler.block_size - self.n_for_reply - len(self._bos_ids)

    @property
    def _bos_ids(self) -> tuple[int, ...]:
        """Before the whole context, not before each turn."""
        return self.sampler.tokenizer.bos_ids

    def before_reply(self, turns: list[Turn], n_earlier: int, prompt: str) -> Reading:
        ids = self._encode(prompt)
        notes: tuple[str, ...] = ()
        if len(ids) + len(self._bos_ids) > self.sampler.block_size:
            ids = ids[-self.limit :]
            notes = (about_long_prompt(self.limit),)
        return self._after(turns, n_earlier, tuple(ids), notes)

    def before_more(self, turns: list[Turn], number: int) -> Reading:
        return self._after(turns, number, self._ids_of(turns, number), ())

    def n_tokens(self, turns: list[Turn], typed: str) -> int:
        n_own = len(self._encode(typed)) if typed else 0
        n_tokens = n_own + len(self.context(turns, len(turns), n_own)[0])
        return n_tokens + len(self._bos_ids) if n_tokens else 0

    def _after(
        self, turns: list[Turn], n_earlier: int, ids: tuple[int, ...], notes: tuple[str, ...]
    ) -> Reading:
        context, n_left_out = self.context(turns, n_earlier, len(ids))
        n_part = len(context) if n_left_out == n_earlier else 0
        return Reading([*self._bos_ids, *context, *ids], ids, n_left_out, n_part, notes)

    def context(self, turns: list[Turn], n_turns: int, n_own: int = 0) -> tuple[list[int], int]:
        """Ids of the newest of the first `n_turns` that fit before `n_own` tokens.

        If not even one turn fits, they are the newest tokens of the last turn.
        The second value is the number of turns that are left out, or of which only a part is kept.
        """
        ids: list[list[int]] = []
        room = self.limit - n_own
        for number in reversed(range(n_turns if self.keeps_context else 0)):
            turn = [*self._ids_of(turns, number), *self.sampler.tokenizer.encode(TURN_END)]
            room -= len(turn)
            if room < 0:
                n_kept = max(room + len(turn), 0) if not ids else 0
                newest = turn[len(turn) - n_kept :]
                parts = [newest, *reversed(ids)]
                return [token for part in parts for token in part], number + 1
            ids.append(turn)
        return [token for part in reversed(ids) for token in part], 0

    def _encode(self, text: str) -> list[int]:
        """Ids of `text` without BOS.

        Of a very long text only the end is encoded, more than the context.
        """
        return self.sampler.encode(_end(text, self.sampler))[len(self._bos_ids) :]

    def _ids_of(self, turns: list[Turn], number: int) -> tuple[int, ...]:
        """Ids of a turn: those that the model generated, or its text encoded once."""
        turn = turns[number]
        if turn.ids is None:
            ids = tuple(self._encode(turn.prompt + turn.reply))
            turn = turns[number] = replace(turn, ids=ids)
        assert turn.ids is not None
        return turn.ids


@dataclass(frozen=True)
class ChatFraming:
    """Turns as messages in a chat template, after the message `system`, which always stays.

    The ids of a turn are those of its reply, so that it can be continued exactly.
    """

    sampler: Sampler
    n_for_reply: int
    keeps_context: bool
    template: ChatTemplate
    system: str | None = None

    @property
    def limit(self) -> int:
        return self.sampler.block_size - self.n_for_reply

    def before_reply(self, turns: list[Turn], n_earlier: int, prompt: str) -> Reading:
        return self._reading(self._earlier(turns, n_earlier), prompt, self.limit)

    def before_more(self, turns: list[Turn], number: int) -> Reading:
        turn = turns[number]
        own = tuple(self.sampler.tokenizer.encode(turn.reply)) if turn.ids is None else turn.ids
        room = max(self.limit - len(own), self.limit // 2)
        before = self._reading(self._earlier(turns, number), turn.prompt, room)
        return Reading([*before.ids, *own], own, before.n_left_out)

    def n_tokens(self, turns: list[Turn], typed: str) -> int:
        n_typed = len(self.sampler.tokenizer.encode(typed)) if typed else 0
        ids, _ = self._newest(self._earlier(turns, len(turns)), "", self.limit)
        return min(len(ids) + n_typed, self.limit)

    def _earlier(self, turns: list[Turn], n_turns: int) -> list[Turn]:
        return turns[:n_turns] if self.keeps_context else []

    def _reading(self, turns: Sequence[Turn], prompt: str, room: int) -> Reading:
        ids, n_left_out = self._newest(turns, prompt, room)
        if len(ids) <= room:
            return Reading(ids, (), n_left_out)
        ids, n_kept = self._shortened(prompt, room)
        return Reading(ids, (), n_left_out, 0, (about_long_prompt(n_kept),))

    def _newest(self, turns: Sequence[Turn], prompt: str, room: int) -> tuple[list[int], int]:
        """Ids of the newest turns that fit before a prompt, and the number of those left out.

        The last turns to go leave the system message and the prompt, whether they fit or not.
        """
        ids = self._encode(turns, prompt)
        if len(ids) <= room or not turns:
            return ids, 0
        n_left_out = 1 + bisect_left(
            range(1, len(turns)), True, key=lambda n: len(self._encode(turns[n:], prompt)) <= room
        )
        return self._encode(turns[n_left_out:], prompt), n_left_out

    def _shortened(self, prompt: str, room: int) -> tuple[list[int], int]:
        """Ids of the end of a prompt that is too long, and the number of its tokens."""
        tokenizer = self.sampler.tokenizer
        own = tokenizer.encode(_end(prompt, self.sampler))
        n_kept = max(room - len(self._encode((), "")), 0)
        while n_kept > 0:
            end = tokenizer.decode(own[-n_kept:]).lstrip("\ufffd")
            ids = self._encode((), end)
            if len(ids) <= room:
                return ids, n_kept
            n_kept -= CUT_STEP
        return self._encode((), ""), 0

    def _encode(self, turns: Sequence[Turn], prompt: str) -> list[int]:
        messages = messages_of(turns, self.system)
        messages.append(roles.Turn(roles.USER, prompt))
        return self.template.encode(messages, self.sampler.tokenizer, is_open=True)


def messages_of(turns: Sequence[Turn], system: str | None) -> list[roles.Turn]:
    """The system message, if there is one, and two messages for each turn."""
    messages = [] if system is None else [roles.Turn(roles.SYSTEM, system)]
    for turn in turns:
        messages.append(roles.Turn(roles.USER, turn.prompt))
        messages.append(roles.Turn(roles.ASSISTANT, turn.reply))
    return messages


def about_long_prompt(n: int) -> str:
    return f"the prompt is longer than the context: the model sees only its last {n} tokens"


def _end(text: str, sampler: Sampler) -> str:
    """The end of a very long text, more than the context."""
    return text[-(sampler.block_size + 1) * LONGEST_TOKEN :]
