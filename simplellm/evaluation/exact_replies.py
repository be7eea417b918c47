"""Exact replies: how often a model answers word for word as a conversation does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from simplellm.config.sampling import SamplingParams
from simplellm.data.chat_template import ChatTemplate
from simplellm.data.conversations.conversation import SYSTEM, USER, Conversation, Turn
from simplellm.inference.sampler import Sampler

Said = tuple[tuple[str, str], ...]  # role and text of each turn
MAX_REPLIES = 200  # that are generated: a few seconds for a small model
GREEDY = SamplingParams(
    temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0, seed=0
)


@dataclass(frozen=True)
class ExactReplies:
    """How many of the replies in conversations a model gives word for word.

    replies: all of them. compared: those that were generated. exact: equal ones. any_exact: equal
    to one of the replies that the conversations have after the same turns, of which a greedy model
    can give only one.
    """

    replies: int
    compared: int
    exact: int
    any_exact: int

    @property
    def share(self) -> float:
        return self.exact / max(self.compared, 1)

    @property
    def any_share(self) -> float:
        return self.any_exact / max(self.compared, 1)


def exact_replies(
    sampler: Sampler,
    template: ChatTemplate,
    conversations: Sequence[Conversation],
    progress: Callable[[float], None] = lambda done: None,
) -> ExactReplies:
    """Compare the greedy reply to the turns before each reply, without white space around it.

    At most MAX_REPLIES are generated, at equal distances. Turns that do not fit into the context
    with the reply are left out, the oldest first; the system messages stay.
    """
    replies = [pair for one in conversations for pair in _replies(one)]
    chosen = [replies[i * len(replies) // MAX_REPLIES] for i in range(MAX_REPLIES)]
    chosen = chosen if len(replies) > MAX_REPLIES else replies
    known: dict[Said, set[str]] = {}
    for turns, wanted in replies:
        known.setdefault(_said(turns), set()).add(wanted.text.strip())
    exact = any_exact = 0
    for number, (turns, wanted) in enumerate(chosen, 1):
        answers = known[_said(turns)]
        reply = greedy_reply(sampler, template, turns, answers)
        exact += reply == wanted.text.strip()
        any_exact += reply in answers
        progress(number / len(chosen))
    return ExactReplies(len(replies), len(chosen), exact, any_exact)


def greedy_reply(
    sampler: Sampler, template: ChatTemplate, turns: Sequence[Turn], wanted: Collection[str]
) -> str:
    """The greedy reply, stripped, as long as it may still be one of `wanted`, also stripped."""
    tokenizer = sampler.tokenizer
    longest = max(len(tokenizer.encode(text)) for text in wanted)
    n_new = longest + 2  # the end of the turn, and white space before it
    ids = template.encode(turns, tokenizer, is_open=True)
    while len(ids) + n_new > sampler.block_size and (shorter := without_oldest(turns)):
        turns = shorter
        ids = template.encode(turns, tokenizer, is_open=True)
    reply = sampler.stream(ids, replace(GREEDY, max_new_tokens=n_new))
    for _ in reply:
        if not any(text.startswith(reply.text.strip()) for text in wanted):
            break
    return reply.text.strip()


def _said(turns: Sequence[Turn]) -> Said:
    return tuple((turn.role, turn.text) for turn in turns)


def without_oldest(turns: Sequence[Turn]) -> list[Turn]:
    """Turns without the oldest question and the replies to it; empty where only one is left."""
    rest = list(turns)
    users = [place for place, turn in enumerate(rest) if turn.role == USER]
    if len(users) < 2:
        return []
    return [turn for place, turn in enumerate(rest) if turn.role == SYSTEM or place >= users[1]]


def _replies(conversation: Conversation) -> Iterator[tuple[tuple[Turn, ...], Turn]]:
    """Each reply with the turns before it, if there are any."""
    for place, turn in enumerate(conversation.turns):
        if turn.is_reply and place:
            yield conversation.turns[:place], turn
