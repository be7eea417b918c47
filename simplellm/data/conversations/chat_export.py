"""Exported chats of people: whose messages are the replies, and where a conversation ends.

- `me` is the name of the person whose messages are the replies. Without it, reading fails and lists
  the people with their numbers of messages: nobody else can know who the model is to be.
- Names are compared without invisible marks, in Unicode's composed form (NFC), and in any case of
  letters where that is unambiguous.
- Consecutive messages of one person are one turn, joined with a newline (see normal_form.py). In a
  chat of several people, everybody but `me` is the user; turns of different people are joined too.
- A silence of more than `gap_seconds` begins a new conversation. Messages without a time, or with
  an earlier one than before, begin none.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from simplellm.config.did_you_mean import did_you_mean
from simplellm.data.conversations.conversation import ASSISTANT, USER, Turn
from simplellm.data.conversations.found import Found
from simplellm.data.conversations.options import ReadOptions
from simplellm.errors import SettingError

MAX_SPEAKERS_SHOWN = 8
MAX_NAMES = 10_000  # that are cached
# direction marks and characters without width
MARKS = re.compile("[\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]+")


@dataclass(frozen=True)
class Message:
    """One message. seconds: its time on any scale; None if unknown. where: for messages to users"""

    speaker: str
    text: str
    seconds: float | None
    where: str


@lru_cache(MAX_NAMES)
def clean_name(name: str) -> str:
    """A name without invisible marks, `~` of unknown contacts and unusual spaces, composed."""
    composed = unicodedata.normalize("NFC", visible(name))
    return re.sub(r"\s+", " ", composed).removeprefix("~").strip()


def visible(text: str) -> str:
    """A text without direction marks, and without white space around it."""
    return MARKS.sub("", text).strip()


def conversations(file: str, messages: Sequence[Message], options: ReadOptions) -> Iterator[Found]:
    """The conversations of one chat; SettingError if `options.me` is none of its people."""
    if not messages:
        return
    me = replying_speaker(file, Counter(message.speaker for message in messages), options.me)
    for group in split_at_silence(messages, options.gap_seconds):
        yield Found(group[0].where, [turn_of(message, me) for message in group])


def turn_of(message: Message, me: str) -> Turn:
    role = ASSISTANT if message.speaker == me else USER
    return Turn(role, message.text, message.speaker)


def replying_speaker(file: str, counts: Counter[str], me: str | None) -> str:
    """The speaker that `me` names; SettingError that lists the speakers if there is none."""
    if me is None:
        raise SettingError(
            f"whose messages in {file} are the replies? Speakers: {speaker_list(counts)}",
            fix=f"--me {_quoted(counts.most_common(1)[0][0])}, or another name",
        )
    speaker = named_speaker(counts, me)
    if speaker is None:
        raise SettingError(
            f"nobody in {file} is called {clean_name(me)!r}. Speakers: {speaker_list(counts)}",
            fix=did_you_mean(clean_name(me), counts, prefix="--me ", otherwise="--me NAME"),
        )
    return speaker


def named_speaker(speakers: Iterable[str], me: str) -> str | None:
    """The speaker with this name, in any case of letters if only one has it."""
    name = clean_name(me)
    same = [speaker for speaker in speakers if speaker.casefold() == name.casefold()]
    if name in same:
        return name
    return same[0] if len(same) == 1 else None


def speaker_list(counts: Counter[str]) -> str:
    """`민수 (1,203), 유나 (797)`, with the most frequent first."""
    shown = [f"{name} ({count:,})" for name, count in counts.most_common(MAX_SPEAKERS_SHOWN)]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def split_at_silence(messages: Sequence[Message], gap_seconds: float) -> Iterator[list[Message]]:
    """The messages in groups; between two groups nobody wrote for more than `gap_seconds`."""
    group: list[Message] = []
    last: float | None = None
    for message in messages:
        seconds = message.seconds
        if group and seconds is not None and last is not None and seconds - last > gap_seconds:
            yield group
            group = []
        group.append(message)
        last = seconds if seconds is not None else last
    if group:
        yield group


def _quoted(name: str) -> str:
    return f'"{name}"' if " " in name else name
