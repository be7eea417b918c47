"""The normal form of a conversation: what every reader makes of the turns that it found.

- Empty turns (white space only) are dropped. What stood on both sides of one then stands side by
  side.
- Neighbouring turns of one role are joined with a newline, system messages too. The joined turn has
  a name if all its parts have the same. It is learned if all its parts are.
- A conversation may begin with the assistant (a greeting, or a chat that the person of `--me`
  begins). This turn stays and is learned, but a conversation needs another reply, to a user.
- Turns after the last reply to learn are dropped: there is nothing to learn from them.
- A system message stays where it is, also in the middle.
- A conversation without a reply to a user is dropped: nobody answers, or nobody asks.

What is dropped is counted by its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import groupby
from operator import attrgetter

from simplellm.data.conversations.conversation import ASSISTANT, USER, Conversation, Turn

# Reasons, as the summary shows them after a number.
EMPTY_TURN = "empty turns"
AFTER_LAST_REPLY = "turns after the last reply"
NO_ANSWER = "conversations without a reply"
NO_QUESTION = "conversations without a user"


def normal_form(turns: Iterable[Turn], source: str, dropped: Counter[str]) -> Conversation | None:
    """The conversation in normal form; None if it has no reply to learn.

    Adds the number of what is dropped to `dropped`, by reason.
    """
    given = list(turns)
    spoken = [turn for turn in given if turn.text.strip()]
    joined = [_one_turn(list(group)) for _, group in groupby(spoken, attrgetter("role"))]
    n_turns = max((number for number, turn in enumerate(joined, 1) if turn.is_reply), default=0)
    conversation = Conversation(tuple(joined[:n_turns]), source)
    if not conversation.has_reply:
        has_user = any(turn.role == USER for turn in spoken)
        dropped[NO_ANSWER if has_user else NO_QUESTION] += 1
        return None
    dropped[EMPTY_TURN] += len(given) - len(spoken)
    dropped[AFTER_LAST_REPLY] += len(joined) - n_turns
    return conversation


def alternating(texts: Iterable[str]) -> list[Turn]:
    """Turns of a user and an assistant who take turns; the user begins."""
    return [Turn(ASSISTANT if number % 2 else USER, text) for number, text in enumerate(texts)]


def _one_turn(turns: list[Turn]) -> Turn:
    """Turns of one role as one turn."""
    if len(turns) == 1:
        return turns[0]
    names = {turn.name for turn in turns}
    return Turn(
        turns[0].role,
        "\n".join(turn.text for turn in turns),
        names.pop() if len(names) == 1 else None,
        all(turn.is_learned for turn in turns),
    )
