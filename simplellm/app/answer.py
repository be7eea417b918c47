"""An answer of the model in a conversation, before it becomes a turn."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from simplellm.app.conversation import Turn
from simplellm.data.tokenizer import Tokenizer
from simplellm.inference.reply import Reply, StreamedToken


@dataclass(frozen=True)
class Answer:
    """A reply that is generated while it is iterated over, once. `Session.keep` makes it a turn.

    kind: the command that asked for it.
    turn: the turn so far, with the ids of the prompt, or of all text that `extend` continues.
    before: the text that is shown before the reply.
    notes: notices to show first.
    pieces: the pieces generated so far.
    """

    kind: Literal["ask", "regen", "extend"]
    turn: Turn
    before: str
    reply: Reply
    notes: tuple[str, ...] = ()
    pieces: list[StreamedToken] = field(default_factory=list)

    def __iter__(self) -> Iterator[StreamedToken]:
        for piece in self.reply:
            if piece.token is not None or piece.text:
                self.pieces.append(piece)
            yield piece


def complete_text(reply: Reply, tokenizer: Tokenizer) -> tuple[str, tuple[int, ...] | None]:
    """The text of a reply without an incomplete character at its end, and the ids of that text.

    A reply may have more ids than text: those of the end of text, of a stop text, and of an
    incomplete character. None if no ids decode to exactly this text.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    n_complete = 0
    for number, token in enumerate(reply.new_ids, 1):
        decoder.decode(tokenizer.token_bytes(token))
        if not decoder.getstate()[0] and token not in reply.end_ids:
            n_complete = number
    ids = tuple(reply.new_ids[:n_complete])
    text = tokenizer.decode(ids)
    if reply.text in (text, text + "\ufffd"):
        return text, ids
    for n_tokens in range(len(reply.new_ids), n_complete, -1):  # invalid bytes at the end
        ids = tuple(reply.new_ids[:n_tokens])
        if tokenizer.decode(ids) == reply.text:
            return reply.text, ids
    return reply.text, None
