"""Parts of conversations: long ones cut between the turns, and replies that are learned alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from simplellm.data.chat_template import ChatTemplate
from simplellm.data.conversations.conversation import SYSTEM, USER, Conversation, Turn

Length = Callable[[Sequence[Turn]], int]  # ids of some turns


def fitting_parts(conversation: Conversation, length: Length, limit: int) -> Iterator[Conversation]:
    """The conversation, or parts of at most `limit` ids that together have each turn once.

    A part begins with a turn of the user. The system messages before it stand at its beginning, as
    in a chat whose oldest turns have left the context. What one turn of the user begins is not
    cut, however long it is.
    """
    if length(conversation.turns) <= limit:
        yield conversation
        return
    system: list[Turn] = []  # messages before the part
    part: list[Turn] = []
    for exchange in _exchanges(conversation.turns):
        if part and length([*system, *part, *exchange]) > limit:
            yield replace(conversation, turns=(*system, *part))
            system += [turn for turn in part if turn.role == SYSTEM]
            part = []
        part += exchange
    yield replace(conversation, turns=(*system, *part))


def separate_replies(conversation: Conversation, template: ChatTemplate) -> Iterator[Conversation]:
    """The conversation, or one for each learned reply, with the turns before it as context.

    The second where the template writes the last reply in another way than earlier ones, so that
    each is learned as a chat asks for it.
    """
    turns = conversation.turns
    if template.keeps_replies(turns):
        yield conversation
        return
    for number, turn in enumerate(turns):
        if turn.is_reply:
            before = (replace(one, is_learned=False) for one in turns[:number])
            yield replace(conversation, turns=(*before, turn))


def _exchanges(turns: Sequence[Turn]) -> Iterator[list[Turn]]:
    """Turns in groups: what stands before the second turn of the user, then from one to the next.

    A system message belongs to the turn of the user that follows it.
    """
    exchange: list[Turn] = []
    for number, turn in enumerate(turns):
        before = turns[number - 1] if number else None
        follows_system = before is not None and before.role == SYSTEM
        begins = turn.role == SYSTEM or (turn.role == USER and not follows_system)
        if begins and any(other.role == USER for other in exchange):
            yield exchange
            exchange = []
        exchange.append(turn)
    if exchange:
        yield exchange
