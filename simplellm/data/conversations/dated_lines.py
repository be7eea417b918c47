"""Lines of a chat export that begin with date and time: where a message begins, and who wrote it.

    [31.01.24, 21:05:33] Name: text        iOS
    31/01/2024, 21:05 - Name: text         Android
    2024년 1월 31일 오후 9:05, Name : text    KakaoTalk

Lines without a date continue the message before them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from simplellm.data.conversations.chat_dates import MAX_STAMP, Stamp, parse_stamp, seconds_of
from simplellm.data.conversations.chat_export import Message, clean_name

# Reasons, as the summary shows them.
MEDIA = "media without text"
NOTICES = "messages of the program"
DELETED = "deleted messages"
BEFORE_FIRST = "lines before the first message"

SEPARATOR = re.compile(r" [-\u2013] |, |,$")  # between the date and the rest
NAME = re.compile(r"(?P<name>[^\n]{1,100}?)(?P<colon> : | ?: |:$)(?P<text>.*)")
IN_SENTENCES = re.compile(r"[\"\u201c\u201d\u201e\u00ab\u00bb\[\]]|^$")  # not in names
LOG_LEVELS = frozenset(
    ("trace", "debug", "info", "notice", "warn", "warning", "error", "fatal", "critical")
)


class Head(NamedTuple):
    """The beginning of a message. speaker: None in lines of the program itself.

    separator: what stands between the date and the rest, without spaces: one of `]-,`.
    """

    stamp: Stamp
    speaker: str | None
    text: str
    separator: str


class Block(NamedTuple):
    """A message with all its lines. head: None before the first message."""

    number: int  # of its first line
    head: Head | None
    lines: list[str]  # of the text


def parse_head(line: str) -> Head | None:
    """The beginning of a message; None for other lines."""
    line = line.lstrip(" \u200e\u200f\u202a\u202b\ufeff")
    if line.startswith("["):
        end = line.find("]", 0, MAX_STAMP)
        stamp = parse_stamp(line[1:end]) if end > 0 else None
        return _head(stamp, line[end + 1 :], "]") if stamp else None
    if not line[:1].isdecimal():
        return None
    for separator in SEPARATOR.finditer(line, 0, MAX_STAMP):
        if stamp := parse_stamp(line[: separator.start()]):
            return _head(stamp, line[separator.end() :], "," if "," in separator[0] else "-")
    return None


def blocks(lines: Iterable[tuple[int, str]]) -> Iterator[Block]:
    """The messages of numbered lines. Blank lines, which have no number, stay in the messages."""
    block: Block | None = None
    last = 0
    for number, line in lines:
        if head := parse_head(line):
            if block:
                yield block
            block = Block(number, head, [head.text])
        elif block is None:
            block = Block(number, None, [line])
        else:
            block.lines.extend([""] * (number - last - 1))
            block.lines.append(line)
        last = number
    if block:
        yield block


def messages(
    found: Iterable[Block],
    text_of: Callable[[list[str]], tuple[str, str]],
    dropped: Counter[str],
) -> list[Message]:
    """The messages of people.

    text_of: for the lines of a message, its text and the reason to drop it, empty if it stays.
    """
    spoken: list[tuple[Block, str, str]] = []
    stamps: list[Stamp] = []
    for block in found:
        if block.head is None:
            dropped[BEFORE_FIRST] += len(block.lines)
        elif block.head.speaker is None:
            dropped[NOTICES] += 1
        else:
            text, reason = text_of(block.lines)
            if reason:
                dropped[reason] += 1
            else:
                spoken.append((block, block.head.speaker, text))
                stamps.append(block.head.stamp)
    return [
        Message(speaker, text, seconds, f"line {block.number}")
        for (block, speaker, text), seconds in zip(spoken, seconds_of(stamps), strict=True)
    ]


def is_log(heads: Iterable[Head]) -> bool:
    """Whether the speakers are the levels of a log file."""
    speakers = {head.speaker.lower() for head in heads if head.speaker}
    return bool(speakers) and speakers <= LOG_LEVELS


def _head(stamp: Stamp, rest: str, separator: str) -> Head:
    rest = rest.removeprefix(" ")
    match = NAME.fullmatch(rest)
    name = clean_name(match["name"]) if match else ""
    if match is None or IN_SENTENCES.search(name):
        return Head(stamp, None, rest, separator)
    return Head(stamp, name, match["text"], separator)
