"""What was read from a file of conversations, as numbers and as plain lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from simplellm.data.conversations.chat_export import speaker_list
from simplellm.data.conversations.conversation import Conversation


@dataclass(frozen=True)
class Summary:
    """Numbers of one file, or of several.

    format: names of the formats. turns, replies: of the conversations that are used. speakers:
    messages of each person or role in the file, without empty ones. dropped: numbers by reason.
    """

    format: str
    conversations: int
    turns: int
    replies: int
    speakers: Mapping[str, int]
    dropped: Mapping[str, int]

    @classmethod
    def of(
        cls,
        format: str,
        conversations: Iterable[Conversation],
        speakers: Counter[str],
        dropped: Counter[str],
    ) -> Summary:
        used = list(conversations)
        turns = sum(len(one.turns) for one in used)
        replies = sum(len(one.replies) for one in used)
        return cls(format, len(used), turns, replies, dict(+speakers), dict(+dropped))

    def lines(self) -> list[str]:
        """One or two lines of text: what was read, and what was dropped if there is anything."""
        speakers = speaker_list(Counter(self.speakers))
        read = (
            f"conversations ({self.format}): {self.conversations:,}, "
            f"turns {self.turns:,}, replies {self.replies:,}; messages of {speakers or 'nobody'}"
        )
        if not self.dropped:
            return [read]
        return [read, f"left out: {reasons(self.dropped)}"]


def reasons(dropped: Mapping[str, int]) -> str:
    """`media without text (31), empty turns (2)`, with the most frequent first."""
    return ", ".join(f"{reason} ({count:,})" for reason, count in Counter(dropped).most_common())


def total(summaries: Iterable[Summary]) -> Summary:
    """The summary of several files as one."""
    parts = list(summaries)
    speakers: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for part in parts:
        speakers.update(part.speakers)
        dropped.update(part.dropped)
    return Summary(
        ", ".join(dict.fromkeys(part.format for part in parts)),
        sum(part.conversations for part in parts),
        sum(part.turns for part in parts),
        sum(part.replies for part in parts),
        dict(speakers),
        dict(dropped),
    )
