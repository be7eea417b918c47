"""Helpers: conversations read from content that a test writes into a file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from simplellm.data.conversations.conversation import Conversation
from simplellm.data.conversations.options import ReadOptions
from simplellm.data.conversations.readers.registry import FORMATS, detect_format
from simplellm.data.conversations.reading import read_conversations, read_file
from simplellm.data.conversations.summary import Summary
from simplellm.data.source import Source, TextFormat


@dataclass
class Result:
    """What was read: the turns of each conversation as (role, text), and the notices."""

    conversations: tuple[Conversation, ...]
    summary: Summary
    notices: list[str] = field(default_factory=list)

    @property
    def turns(self) -> list[list[tuple[str, str]]]:
        return [[(turn.role, turn.text) for turn in one.turns] for one in self.conversations]

    @property
    def dropped(self) -> dict[str, int]:
        return dict(self.summary.dropped)


def write(folder: Path, content: str | bytes | list[object], name: str) -> Path:
    """A file with this content; a list becomes JSON lines."""
    if isinstance(content, list):
        content = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in content)
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(
    folder: Path,
    content: str | bytes | list[object],
    name: str = "a.jsonl",
    share: float = 0.0,
    encoding: str = "utf-8",
    **options: object,
) -> Result:
    """Read one file by detection, or with `format=` by force."""
    path = write(folder, content, name)
    notices: list[str] = []
    text_format = TextFormat(encoding, max_bad_share=share)
    found = read_conversations(
        [str(path)], ReadOptions(**options), text_format, notice=notices.append
    )
    return Result(found.conversations, found.summary, notices)


def read_as(folder: Path, format: str, content: str | list[object], **options: object) -> Result:
    """Read one file in this format."""
    path = write(folder, content, "a.txt")
    file = read_file(Source(str(path)), FORMATS[format], ReadOptions(**options))
    return Result(file.conversations, file.summary)


def detected(
    folder: Path, content: str | list[object], name: str = "a.jsonl", me: str | None = None
) -> str | None:
    """The name of the format that is detected; None for a text."""
    source = Source(str(write(folder, content, name)))
    format = detect_format(source, ReadOptions(me=me))
    return format.name if format else None
