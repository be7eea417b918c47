"""What was said, as turns, and the files that keep it: JSON lines, one per turn.

    {"simplellm": "conversation", "version": 1, "run": "/home/me/checkpoints/notes", "started_at": "2026-01-31T12:00:00"}
    {"turn": 1, "prompt": "The judge", "reply": " sneezed", "stop_reason": "length", "context": false, "settings": {...}}

A line with the number of a turn that is there takes its place, and what came after it is gone (/regen, /continue);
{"turns": 1} leaves the first one (/undo). So a conversation is kept by appending alone, and a kill costs no more than
the line that was being written.
"""

from __future__ import annotations

import glob
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from simplellm.app.preferences import OWNER_ONLY, make_private
from simplellm.config.sampling import SamplingParams
from simplellm.errors import Notice, SimpleLLMError, TextError
from simplellm.storage.files import replace_file

if TYPE_CHECKING:
    from simplellm.inference.reply import StreamedToken

KIND, VERSION = "conversation", 1
STOP_REASONS = ("interrupted", "length", "stop", "end_of_text")
MOST_BYTES = 200_000_000  # of a conversation that is read: some paste books
MOST_HEADER_BYTES = 100_000
MOST_NAME = 60  # characters of the run's name in that of a file


@dataclass(frozen=True)
class Turn:
    """A prompt and what the model went on with."""

    prompt: str
    reply: str
    stop_reason: str = "length"  # one of STOP_REASONS
    params: SamplingParams = field(default_factory=SamplingParams)  # with the seed that was used
    in_context: bool = False  # whether earlier turns were looked at
    ids: tuple[int, ...] | None = field(
        default=None, compare=False
    )  # of both texts, where the model said them itself
    thoughts: tuple[StreamedToken, ...] = field(
        default=(), compare=False
    )  # the pieces of the reply, with their probabilities

    def to_record(self, number: int) -> dict[str, Any]:
        return {
            "turn": number, "prompt": self.prompt, "reply": self.reply, "stop_reason": self.stop_reason,
            "context": self.in_context, "settings": self.params.to_mapping(),
        }  # fmt: skip

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Turn:
        """The inverse of `to_record`; ValueError or SettingError says what is wrong."""
        prompt, reply, reason = (
            record.get("prompt"),
            record.get("reply"),
            record.get("stop_reason", "length"),
        )
        context, settings = record.get("context", False), record.get("settings", {})
        if not isinstance(prompt, str) or not isinstance(reply, str):
            raise ValueError("a turn has a prompt and a reply, both texts")
        if (
            reason not in STOP_REASONS
            or not isinstance(context, bool)
            or not isinstance(settings, dict)
        ):
            raise ValueError("stop_reason, context or settings cannot be that")
        return cls(prompt, reply, reason, SamplingParams.from_mapping(settings), context)


# ---------------------------------------------------------------- files a person names


def save(path: Path, turns: Sequence[Turn], run: Path) -> None:
    """Write a conversation, whole or not at all; TextError where that is refused, and for a file of another kind."""
    try:
        if os.path.lexists(path) and not (path.is_file() and path.stat().st_size == 0):
            _check_ours(path)
        replace_file(Path(os.path.realpath(path)), _lines(turns, run))
    except (OSError, ValueError) as error:
        raise TextError(
            f"cannot write {path}: {_reason(error)}", fix="choose a place you may write to"
        ) from error


def load(path: Path) -> list[Turn]:
    """The turns of a saved conversation; TextError says which file, and which line of it is wrong."""
    read_header(path)
    turns: list[Turn] = []
    for number, record in _records(path):
        try:
            turns = _after(turns, record)
        except (ValueError, SimpleLLMError) as error:
            raise _wrong(path, number, str(error)) from error
    return turns


def read_header(path: Path) -> dict[str, Any]:
    """The first line of a saved conversation; TextError when it is not one, or of another version."""
    try:
        if not path.is_file():
            what = (
                "is a folder"
                if path.is_dir()
                else "is no plain file"
                if os.path.lexists(path)
                else "is not there"
            )
            raise TextError(f"{path} {what}", fix="name a file that /save wrote")
        if path.stat().st_size > MOST_BYTES:
            raise TextError(
                f"{path} has over {MOST_BYTES:,} bytes, more than any conversation",
                fix="name another file",
            )
        with open(path, "rb") as file:
            header = _parse(file.readline(MOST_HEADER_BYTES))
    except OSError as error:
        raise TextError(
            f"cannot read {path}: {_reason(error)}", fix="name a file you may read"
        ) from error
    except ValueError:
        header = {}
    if header.get("simplellm") != KIND:
        raise TextError(f"{path} is no saved conversation", fix="name a file that /save wrote")
    if header.get("version") != VERSION:
        raise TextError(
            f"{path} is of version {str(header.get('version'))[:20]}, this program reads {VERSION}"
        )
    return header


def _check_ours(path: Path) -> None:
    try:
        read_header(path)
    except TextError as error:
        what = f"{error}; it stays as it is" if path.is_file() else str(error)
        raise TextError(what, fix="choose another name") from error


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each line after the first: its number and its object. What a kill left of a last line does not count."""
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        try:
            yield number, _parse(line)
        except ValueError as error:
            if number == len(lines):
                return
            raise _wrong(path, number, str(error)) from error


def _parse(line: bytes) -> dict[str, Any]:
    """The JSON object of a line; ValueError for anything else."""
    try:
        record = json.loads(line.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError("it is not JSON in UTF-8") from error
    if not isinstance(record, dict):
        raise ValueError("it holds no JSON object")
    return record


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _after(turns: list[Turn], record: dict[str, Any]) -> list[Turn]:
    """The turns once `record` is taken in."""
    n_kept, number = record.get("turns"), record.get("turn")
    if type(n_kept) is int and 0 <= n_kept <= len(turns):
        return turns[:n_kept]
    if type(number) is not int or not 1 <= number <= len(turns) + 1:
        raise ValueError(f"turn {str(number)[:20]} cannot follow turn {len(turns)}")
    turns[number - 1 :] = [Turn.from_record(record)]
    return turns


def _wrong(path: Path, number: int, what: str) -> TextError:
    return TextError(f"{path}, line {number}: {what}", fix="name a file that /save wrote")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _lines(turns: Sequence[Turn], run: Path) -> bytes:
    header = {
        "simplellm": KIND,
        "version": VERSION,
        "run": str(run.resolve()),
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }
    return b"".join(
        map(_line, [header, *(turn.to_record(number) for number, turn in enumerate(turns, 1))])
    )


def _line(record: dict[str, Any]) -> bytes:
    """A line of JSON that people can read; escaped where a text has no UTF-8 form (bytes that a terminal made up)."""
    try:
        return json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(record, allow_nan=False).encode() + b"\n"


# ---------------------------------------------------------------- conversations that keep themselves


class Journal:
    """The file a conversation keeps itself in, from its first turn on."""

    def __init__(
        self, folder: Path, run: Path, path: Path | None = None, turns: Sequence[Turn] = ()
    ) -> None:
        self.folder, self.run, self.path = folder, run, path
        self._written = list(turns)  # what the file at `path` says

    def write(self, turns: Sequence[Turn]) -> None:
        """Append what has changed since the last time; OSError where that is refused."""
        if self.path is None:
            if turns:
                self.path = _new_file(self.folder, self.run, _lines(turns, self.run))
        else:
            same = next(
                (
                    i
                    for i, (old, new) in enumerate(zip(self._written, turns, strict=False))
                    if old != new
                ),
                None,
            )
            same = min(len(self._written), len(turns)) if same is None else same
            lines = [turn.to_record(number) for number, turn in enumerate(turns[same:], same + 1)]
            _append(self.path, lines or ([{"turns": same}] if same < len(self._written) else []))
        self._written = list(turns)

    def fresh(self, run: Path | None = None) -> Journal:
        """A journal of another conversation; this one's file stays as it is."""
        return Journal(self.folder, run or self.run)


def resume(folder: Path, run: Path, notice: Notice) -> tuple[Journal, list[Turn]]:
    """The newest conversation with `run`, to go on with; a new one where there is none. What is damaged is passed over."""
    for path in conversations(folder, run):
        try:
            turns = load(path)
            _mend_last_line(path)
        except (TextError, OSError) as error:
            notice(f"{error}; looking for an earlier conversation")
        else:
            return Journal(folder, run, path, turns), turns
    notice("there is no earlier conversation with this run; this is a new one")
    return Journal(folder, run), []


def conversations(folder: Path, run: Path) -> list[Path]:
    """The conversations with `run` that kept themselves, the one spoken in last first."""

    def is_of_run(path: Path) -> bool:
        try:
            return read_header(path).get("run") == str(run.resolve())
        except TextError:
            return False

    try:
        paths = [
            (path.stat().st_mtime_ns, path)
            for path in folder.glob(glob.escape(_stem(run)) + "-*.jsonl")
        ]
    except OSError:
        return []
    return [path for _, path in sorted(paths, reverse=True) if is_of_run(path)]


def _stem(run: Path) -> str:
    return run.name[:MOST_NAME]


def _new_file(folder: Path, run: Path, data: bytes) -> Path:
    """A file of a new name, its owner's alone, that holds `data`."""
    make_private(folder)
    stem = f"{_stem(run)}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in range(1, 1000):
        path = folder / (f"{stem}.jsonl" if number == 1 else f"{stem}-{number}.jsonl")
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
        except FileExistsError:
            continue
        with open(handle, "wb") as file:
            file.write(data)
        return path
    raise FileExistsError(17, "no name is free", str(folder))


def _append(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """In one write; FileNotFoundError when the file has been taken away meanwhile."""
    if records:
        with open(os.open(path, os.O_WRONLY | os.O_APPEND), "ab") as file:
            file.write(b"".join(map(_line, records)))


def _mend_last_line(path: Path) -> None:
    """Give a last line its end, or take away what a kill left of it, so that the next one stands on its own."""
    data = path.read_bytes()
    start = data.rfind(b"\n") + 1
    try:
        if data[start:]:
            _parse(data[start:])
            with open(path, "ab") as file:
                file.write(b"\n")
    except ValueError:
        os.truncate(path, start)
