"""A conversation as a list of turns, and its file format.

A text is continued in JSON lines, one per turn:

    {"simplellm": "conversation", "version": 1, "run": "/home/me/checkpoints/notes",
     "started_at": "2026-01-31T12:00:00"}
    {"turn": 1, "prompt": "The judge", "reply": " sneezed", "stop_reason": "length",
     "context": false, "settings": {...}}

A line with the number of an earlier turn replaces that turn and deletes those after it (/regen,
/continue); {"turns": 1} keeps only the first turn (/undo). A file can therefore be written by
appending only, and a kill damages at most its last line.

A chat is one line that `train` reads as a conversation. It is replaced as a whole:

    {"simplellm": "conversation", "version": 2, "run": ..., "started_at": ...,
     "messages": [{"role": "user", "content": "Hello"}, ...], "replies": [{"stop_reason": ...}]}
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from simplellm.config.sampling import SamplingParams
from simplellm.errors import SimpleLLMError, TextError
from simplellm.storage.files import replace_file
from simplellm.storage.json_files import JsonObject

if TYPE_CHECKING:
    from simplellm.inference.reply import StreamedToken

KIND = "conversation"
VERSION = 1
CHAT_VERSION = 2
STOP_REASONS = ("interrupted", "length", "stop", "end_of_text")
COMPLETE = ("stop", "end_of_text")  # reasons for which a whole reply ends
MOST_BYTES = 200_000_000  # of a file that is read: some people paste books
NAME_SAVED_FILE = "name a file that /save wrote"
STARTED_AT = "started_at"


@dataclass(frozen=True)
class Turn:
    """A prompt and the model's reply.

    stop_reason: one of STOP_REASONS. params: settings of the reply, with the seed that was used.
    in_context: whether the model saw the earlier turns.
    ids: tokens of prompt and reply, in a chat those of the reply; None if the text has not been
        encoded for this model.
    pieces: the reply with the probability of each token; not saved.
    """

    prompt: str
    reply: str
    stop_reason: str = "length"
    params: SamplingParams = field(default_factory=SamplingParams)
    in_context: bool = False
    ids: tuple[int, ...] | None = field(default=None, compare=False)
    pieces: tuple[StreamedToken, ...] = field(default=(), compare=False)

    def to_record(self, number: int) -> JsonObject:
        return {
            "turn": number,
            "prompt": self.prompt,
            "reply": self.reply,
            **self.facts_of_reply(),
        }

    def facts_of_reply(self) -> JsonObject:
        """How the reply was made."""
        return {
            "stop_reason": self.stop_reason,
            "context": self.in_context,
            "settings": self.params.to_mapping(),
        }

    @classmethod
    def from_record(cls, record: JsonObject) -> Turn:
        """The inverse of `to_record`; ValueError or SettingError if the record is wrong."""
        prompt = record.get("prompt")
        reply = record.get("reply")
        reason = record.get("stop_reason", "length")
        in_context = record.get("context", False)
        settings = record.get("settings", {})
        if not isinstance(prompt, str) or not isinstance(reply, str):
            raise ValueError("a turn needs a prompt and a reply, both texts")
        if reason not in STOP_REASONS:
            raise ValueError(f"stop_reason is one of {', '.join(STOP_REASONS)}")
        if not isinstance(in_context, bool) or not isinstance(settings, dict):
            raise ValueError("context is true or false, and settings is an object")
        return cls(prompt, reply, reason, SamplingParams.from_mapping(settings), in_context)


@dataclass(frozen=True)
class Conversation:
    """Turns of one mode; `system`: the system message of a chat."""

    turns: list[Turn] = field(default_factory=list)
    is_chat: bool = False
    system: str | None = None


# ---------------------------------------------------------------- save and load


def save(path: Path, conversation: Conversation, run: Path) -> None:
    """Write a conversation atomically.

    TextError if the system refuses, and if `path` is a file that is not a saved conversation.
    """
    try:
        if os.path.lexists(path) and not (path.is_file() and path.stat().st_size == 0):
            _refuse_to_overwrite(path)
        replace_file(Path(os.path.realpath(path)), to_lines(conversation, run))
    except (OSError, ValueError) as error:
        raise TextError(
            f"cannot write {path}: {_reason(error)}", fix="choose a folder that you may write to"
        ) from error


def load(path: Path) -> list[Turn]:
    """The turns of `read_conversation`."""
    return read_conversation(path).turns


def read_conversation(path: Path) -> Conversation:
    """A saved conversation; TextError with the file and the line that is wrong."""
    header = read_header(path)
    if header["version"] == CHAT_VERSION:
        try:
            return chat_of(header)
        except (ValueError, SimpleLLMError) as error:
            raise _wrong_line(path, 1, str(error)) from error
    turns: list[Turn] = []
    for number, record in _records(path):
        try:
            turns = _applied(record, turns)
        except (ValueError, SimpleLLMError) as error:
            raise _wrong_line(path, number, str(error)) from error
    return Conversation(turns)


def read_header(path: Path) -> JsonObject:
    """The first line of a saved conversation, which has the whole of a chat.

    TextError for other files and other versions.
    """
    try:
        _require_plain_file(path)
        with open(path, "rb") as file:
            header = parse_line(file.readline(MOST_BYTES))
    except OSError as error:
        raise TextError(
            f"cannot read {path}: {_reason(error)}", fix="name a file that you may read"
        ) from error
    except ValueError:
        header = {}
    if header.get("simplellm") != KIND:
        raise TextError(f"{path} is not a saved conversation", fix=NAME_SAVED_FILE)
    if header.get("version") not in (VERSION, CHAT_VERSION):
        version = str(header.get("version"))[:20]
        raise TextError(f"{path} has version {version}, this program reads version {VERSION}")
    return header


def _require_plain_file(path: Path) -> None:
    if path.is_dir():
        raise TextError(f"{path} is a folder", fix=NAME_SAVED_FILE)
    if not path.is_file():
        problem = "is not a regular file" if os.path.lexists(path) else "does not exist"
        raise TextError(f"{path} {problem}", fix=NAME_SAVED_FILE)
    if path.stat().st_size > MOST_BYTES:
        raise TextError(
            f"{path} is larger than any conversation ({MOST_BYTES:,} bytes)",
            fix="name another file",
        )


def _refuse_to_overwrite(path: Path) -> None:
    """TextError if `path` is not a saved conversation."""
    try:
        read_header(path)
    except TextError as error:
        problem = f"{error}; it is not overwritten" if path.is_file() else str(error)
        raise TextError(problem, fix="choose another name") from error


# ---------------------------------------------------------------- chats


def chat_record(conversation: Conversation) -> JsonObject:
    """A chat as messages, and how each reply was made."""
    system = [{"role": "system", "content": conversation.system}]
    messages: list[JsonObject] = system if conversation.system is not None else []
    for turn in conversation.turns:
        messages.append({"role": "user", "content": turn.prompt})
        cut = {} if turn.stop_reason in COMPLETE else {"weight": 0}  # no example for training
        messages.append({"role": "assistant", "content": turn.reply, **cut})
    replies = [turn.facts_of_reply() for turn in conversation.turns]
    return {"messages": messages, "replies": replies}


def chat_of(record: JsonObject) -> Conversation:
    """The inverse of `chat_record`; ValueError or SettingError if the record is wrong."""
    messages, facts = record.get("messages"), record.get("replies", [])
    if not isinstance(messages, list) or not isinstance(facts, list):
        raise ValueError("a chat has messages and replies, both lists")
    pairs = [
        (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        for message in messages
    ]
    has_system = bool(pairs) and pairs[0][0] == "system"
    system = pairs.pop(0)[1] if has_system else None
    expected = ["user", "assistant"] * (len(pairs) // 2)
    if [role for role, _ in pairs] != expected or (has_system and not isinstance(system, str)):
        raise ValueError("after a system message, messages of user and assistant take turns")
    contents = [content for _, content in pairs]
    if not all(isinstance(how, dict) for how in facts):
        raise ValueError("replies is a list of objects")
    facts = [*facts, *[{}] * len(contents)]
    turns = [
        Turn.from_record({"context": True, **how, "prompt": prompt, "reply": reply})
        for prompt, reply, how in zip(contents[::2], contents[1::2], facts, strict=False)
    ]
    return Conversation(turns, True, system)


# ---------------------------------------------------------------- lines


def to_lines(conversation: Conversation, run: Path, started_at: str = "") -> bytes:
    """A whole file. started_at: ISO 8601; now where it is empty."""
    header = {
        "simplellm": KIND,
        "version": CHAT_VERSION if conversation.is_chat else VERSION,
        "run": str(run.resolve()),
        STARTED_AT: started_at or now(),
    }
    if conversation.is_chat:
        return to_line({**header, **chat_record(conversation)})
    records = [turn.to_record(number) for number, turn in enumerate(conversation.turns, 1)]
    return b"".join(map(to_line, [header, *records]))


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S")


def to_line(record: JsonObject) -> bytes:
    """One line of readable JSON. Text without a UTF-8 form (invalid terminal input) is escaped."""
    try:
        return json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(record, allow_nan=False).encode() + b"\n"


def parse_line(line: bytes) -> JsonObject:
    """The JSON object of a line; ValueError for anything else."""
    try:
        record = json.loads(line.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError("not JSON in UTF-8") from error
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    return record


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _records(path: Path) -> Iterator[tuple[int, JsonObject]]:
    """Number and object of each line after the first. An incomplete last line is skipped."""
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        try:
            yield number, parse_line(line)
        except ValueError as error:
            if number == len(lines):
                return
            raise _wrong_line(path, number, str(error)) from error


def _applied(record: JsonObject, turns: list[Turn]) -> list[Turn]:
    """The turns after the line `record`; ValueError if it does not fit."""
    n_kept = record.get("turns")
    number = record.get("turn")
    if type(n_kept) is int and 0 <= n_kept <= len(turns):
        return turns[:n_kept]
    if type(number) is not int or not 1 <= number <= len(turns) + 1:
        raise ValueError(f"turn {str(number)[:20]} cannot follow turn {len(turns)}")
    turns[number - 1 :] = [Turn.from_record(record)]
    return turns


def _wrong_line(path: Path, number: int, problem: str) -> TextError:
    return TextError(f"{path}, line {number}: {problem}", fix=NAME_SAVED_FILE)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
