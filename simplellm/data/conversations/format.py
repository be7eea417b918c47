"""What a conversation format is: a name, a detector and a reader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from simplellm.data.conversations.conversation import Turn
from simplellm.data.conversations.found import BadRecord, Found
from simplellm.data.conversations.json_values import json_values
from simplellm.data.conversations.options import ReadOptions
from simplellm.data.source import Source, numbered_lines
from simplellm.errors import TextError

SAMPLE_RECORDS = 50
SAMPLE_LINES = 400

Dropped = Counter[str]  # number of what is dropped, by its reason


@dataclass(frozen=True)
class Sample:
    """The beginning of a file.

    lines: (number, text) of lines that are not blank. records: JSON values, without what is no
    JSON. me: name of the person whose messages are the replies, if it is given.
    """

    lines: tuple[tuple[int, str], ...]
    records: tuple[Any, ...]
    me: str | None = None

    @classmethod
    def of(cls, source: Source, me: str | None = None) -> Sample:
        lines = tuple(islice(numbered_lines(source.decoded()), SAMPLE_LINES))
        may_be_json = bool(lines) and lines[0][1].lstrip().startswith(("{", "["))
        values = islice(json_values(source), SAMPLE_RECORDS) if may_be_json else ()
        records = (value for _, value in values if isinstance(value, (dict, list)))
        return cls(lines, tuple(records), me)


@dataclass(frozen=True)
class Format:
    """A format of conversations.

    help: one line. fits: the share of a sample, 0 to 1, that is in this format. read: the
    conversations of a file; it counts dropped messages by their reason. uses_me: whether `--me` and
    `--gap` say something about it.
    """

    name: str
    help: str
    fits: Callable[[Sample], float]
    read: Callable[[Source, ReadOptions, Dropped], Iterator[Found]]
    uses_me: bool = False


def record_format(
    name: str,
    help: str,
    fits: Callable[[Any], bool],
    turns: Callable[[Any], list[Turn]],
    parts: Callable[[Any], Iterable[tuple[str, Any]]] = lambda record: [("", record)],
) -> Format:
    """A format of JSON records.

    fits: whether a record is in the format. parts: the conversations of a record, each with what
    follows the line in messages. turns: of one conversation; BadRecord if it cannot be used.
    """

    def share(sample: Sample) -> float:
        return sum(map(fits, sample.records)) / max(len(sample.records), 1)

    def read(source: Source, options: ReadOptions, dropped: Dropped) -> Iterator[Found]:
        for place, record in json_values(source):
            if isinstance(record, TextError):
                yield Found(place, record)
                continue
            for suffix, part in parts(record):
                where = place + suffix
                try:
                    yield Found(where, turns(part))
                except BadRecord as bad:
                    yield Found(where, TextError(f"{source.name} {where} {bad}", fix=bad.fix))

    return Format(name, help, share, read)
