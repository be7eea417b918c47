"""Chat templates: from the turns of a conversation to the ids that a chat model was trained on.

ChatML is rendered here, other templates in jinja2's sandbox. The ids are those of
`AutoTokenizer.apply_chat_template`, except that the texts of special tokens in a turn stay text.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from simplellm.data.conversations.conversation import ASSISTANT, SYSTEM, USER, Turn
from simplellm.data.special_text import Hider, StandIns, special_texts
from simplellm.data.template_sandbox import Message, render
from simplellm.data.tokenizer import Tokenizer
from simplellm.errors import TextError, TokenizerError

IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
CHATML_TOKENS = (IM_START, IM_END)
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MARK = "\udfff"  # stands for a reply; no text contains it, and no other stand-in is equal


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template. source: its text in jinja2. bos_token, eos_token: variables of it."""

    source: str = CHATML
    bos_token: str = ""
    eos_token: str = ""

    def render(self, turns: Iterable[Turn], *, is_open: bool) -> str:
        """The text of the turns; `is_open` adds the beginning of a reply.

        TextError where the template refuses the turns, CheckpointError without jinja2.
        """
        return self._text([_message(turn.role, turn.text) for turn in turns], is_open)

    def encode(self, turns: Iterable[Turn], tokenizer: Tokenizer, *, is_open: bool) -> list[int]:
        """Ids of the turns; `is_open` adds the beginning of a reply. Errors as in `render`."""
        messages, stand_ins = self._hidden(turns, tokenizer)
        return tokenizer.encode_template(self._text(messages, is_open), stand_ins)

    def check(self, tokenizer: Tokenizer) -> None:
        """An error as in `encode` if not even one message can be encoded."""
        self.encode([Turn(USER, "a")], tokenizer, is_open=True)

    def encode_learned(
        self, turns: Sequence[Turn], tokenizer: Tokenizer
    ) -> tuple[list[int], list[bool]]:
        """Ids of the turns, and for each id whether it is learned.

        Learned are replies (`Turn.is_reply`) with the token that ends them: what follows the ids
        of the turns before, with the beginning of a reply. A token on the border is learned.
        TextError where the template changes earlier turns. Other errors as in `render`.
        """
        messages, stand_ins = self._hidden(turns, tokenizer)
        text = self._text(messages, False)
        parts = _encoded_parts(text, tokenizer, stand_ins)
        ends = self.end_ids(tokenizer)
        learned = [[False] * len(part.ids) for part in parts]
        for number, turn in enumerate(turns):
            if turn.is_reply:
                start = self._start_of_reply(messages, number, text)
                end = _end_of_reply(parts, start, ends) or self._end_of(messages, number, text)
                for part, flags in zip(parts, learned, strict=True):
                    first, last = part.tokens_within(start, end, tokenizer, stand_ins)
                    flags[first:last] = [True] * (last - first)
        return (
            [token for part in parts for token in part.ids],
            [flag for flags in learned for flag in flags],
        )

    def keeps_replies(self, turns: Sequence[Turn]) -> bool:
        """Whether the text of each learned reply is the same as where it is the last turn.

        A chat always asks for the last one. Qwen3 writes an empty `<think>` block into the last
        reply, and none into earlier ones.
        """
        if self.source == CHATML:
            return True
        messages = [_message(turn.role, turn.text) for turn in turns]
        text = self._text(messages, False)
        ends = (number + 1 for number, turn in enumerate(turns) if turn.is_reply)
        return all(text.startswith(self._text(messages[:end], False)) for end in ends)

    def end_ids(self, tokenizer: Tokenizer) -> frozenset[int]:
        """The token that ends a reply; none where the template has only text there."""
        special = frozenset(tokenizer.special_tokens.values())
        for part in tokenizer.template_parts(self._after_reply):
            ids = tokenizer.encode_template(part)
            if ids and ids[0] in special:
                return frozenset(ids[:1])
        return frozenset()

    # ------------------------------------------------------------ text

    def _text(self, messages: Sequence[Message], is_open: bool) -> str:
        if self.source == CHATML:
            return "".join(map(_chatml, messages)) + f"{IM_START}{ASSISTANT}\n" * is_open
        names = {"bos_token": self.bos_token, "eos_token": self.eos_token}
        return render(self.source, messages, is_open, **names)

    def _hidden(
        self, turns: Iterable[Turn], tokenizer: Tokenizer
    ) -> tuple[list[Message], StandIns]:
        """Messages in which no text of a special token is left."""
        special = tokenizer.special_tokens
        if self.source == CHATML and not {*CHATML_TOKENS} <= special.keys():
            raise TokenizerError(
                f"the tokenizer does not have the special tokens {IM_START} and {IM_END} of ChatML",
                fix="train on conversations, which adds them",
            )
        hider = Hider(special_texts(tuple(special)))
        messages = [_message(turn.role, hider.hidden(turn.text)) for turn in turns]
        return messages, hider.stand_ins

    @functools.cached_property
    def has_default_system(self) -> bool:
        """Whether the template adds a system message to a conversation without one."""
        with contextlib.suppress(TextError):
            first, then = self._text([_message(USER, MARK)], False).partition(MARK)[::2]
            system = self._text([_message(SYSTEM, ""), _message(USER, MARK)], False)
            return len(first) > len(system.partition(MARK)[0]) and bool(then)
        return False

    @functools.cached_property
    def _after_reply(self) -> str:
        messages = [_message(USER, "a"), _message(ASSISTANT, MARK)]
        return self._text(messages, False).rpartition(MARK)[2]

    # ------------------------------------------------------------ replies

    def _start_of_reply(self, messages: Sequence[Message], number: int, text: str) -> int:
        """The place in `text` where a reply begins, after all that stands before a new reply."""
        if self.source == CHATML:
            return len(self._text(messages[:number], True))
        if number == 0:  # many templates add a system message only where there is a message
            before, mark, _ = self._text([_message(ASSISTANT, MARK)], False).partition(MARK)
            before = before if mark else MARK
        else:
            before = self._text(messages[:number], True)
        return _checked_length(before, text)

    def _end_of(self, messages: Sequence[Message], number: int, text: str) -> int:
        return _checked_length(self._text(messages[: number + 1], False), text)


@dataclass(frozen=True)
class _Part:
    """A special token of a rendered template, or the text between two. start: its place."""

    text: str
    start: int
    ids: list[int]

    @property
    def end(self) -> int:
        return self.start + len(self.text)

    def tokens_within(
        self, start: int, end: int, tokenizer: Tokenizer, stand_ins: StandIns
    ) -> tuple[int, int]:
        """First and last + 1 of the tokens of this part between two places of the whole text."""

        def n_before(place: int) -> int:
            if not self.start < place < self.end:
                return 0 if place <= self.start else len(self.ids)
            before = tokenizer.encode_template(self.text[: place - self.start], stand_ins)
            pairs = zip(before, self.ids, strict=False)
            return next((n for n, (one, other) in enumerate(pairs) if one != other), len(before))

        return n_before(start), n_before(end)


def _encoded_parts(text: str, tokenizer: Tokenizer, stand_ins: StandIns) -> list[_Part]:
    parts: list[_Part] = []
    for part in tokenizer.template_parts(text):
        start = parts[-1].end if parts else 0
        parts.append(_Part(part, start, tokenizer.encode_template(part, stand_ins)))
    return parts


def _end_of_reply(parts: Iterable[_Part], start: int, ends: frozenset[int]) -> int | None:
    """The end of the first token after `start` that ends a reply."""
    return next((p.end for p in parts if p.start >= start and p.ids and p.ids[0] in ends), None)


def _checked_length(before: str, text: str) -> int:
    """The length of `before`, which `text` must begin with."""
    if not text.startswith(before):
        raise TextError(
            "the chat template of the model changes earlier turns when a turn is added, so that "
            "its replies cannot be learned",
            fix="use conversations of one question and one reply, or another model",
        )
    return len(before)


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _chatml(message: Message) -> str:
    return f"{IM_START}{message['role']}\n{message['content']}{IM_END}\n"
