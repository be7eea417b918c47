"""Conversations that are saved automatically: one file each, in the state folder of the user."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import time
from collections.abc import Sequence
from pathlib import Path

from simplellm.app.conversation import (
    STARTED_AT,
    Conversation,
    Turn,
    now,
    parse_line,
    read_conversation,
    read_header,
    to_line,
    to_lines,
)
from simplellm.app.preferences import OWNER_ONLY, make_private
from simplellm.checkpoint.run_names import cut_name
from simplellm.errors import Notice, TextError
from simplellm.storage.files import replace_file
from simplellm.storage.json_files import JsonObject

MOST_NAME = 60  # characters of the run name in a file name
MOST_FILES = 1000  # of one run that begin in the same second


class Journal:
    """The file of one conversation. It is created with the first turn.

    `path`: the file, once it exists. `turns`: its content. `started_at`: of the conversation.
    """

    def __init__(
        self,
        folder: Path,
        run: Path,
        path: Path | None = None,
        turns: Sequence[Turn] = (),
        started_at: str = "",
    ) -> None:
        self.folder = folder
        self.run = run
        self.path = path
        self._started_at = started_at
        self._written = list(turns)

    def write(self, conversation: Conversation) -> None:
        """Write the changes since the last call; OSError if the system refuses.

        A chat is written as a whole, a text appended.
        """
        turns = conversation.turns
        if self.path is None:
            if turns:
                self._started_at = now()
                self.path = _new_file(self.folder, self.run, self._lines(conversation))
        elif conversation.is_chat:
            if not self.path.exists():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path))
            replace_file(self.path, self._lines(conversation), OWNER_ONLY)
        else:
            n_same = _n_same(self._written, turns)
            changed = enumerate(turns[n_same:], n_same + 1)
            records = [turn.to_record(number) for number, turn in changed]
            if not records and n_same < len(self._written):
                records = [{"turns": n_same}]
            _append(self.path, records)
        self._written = list(turns)

    def _lines(self, conversation: Conversation) -> bytes:
        return to_lines(conversation, self.run, self._started_at)

    def fresh(self, run: Path | None = None) -> Journal:
        """The journal of a new conversation. The file of this one stays as it is."""
        return Journal(self.folder, run or self.run)


def last_conversation(folder: Path, run: Path, notice: Notice) -> tuple[Journal, Conversation]:
    """The newest undamaged conversation with `run`, or a new one if there is none."""
    for path in saved_conversations(folder, run):
        try:
            conversation = read_conversation(path)
            _mend_last_line(path)
        except (TextError, OSError) as error:
            notice(f"{error}; looking for an earlier conversation")
        else:
            started_at = str(read_header(path).get(STARTED_AT))
            return Journal(folder, run, path, conversation.turns, started_at), conversation
    notice("no earlier conversation with this run; starting a new one")
    return Journal(folder, run), Conversation()


def last_run(folder: Path, checkpoints: Path) -> Path | None:
    """The run in `checkpoints` of the newest conversation with one of its runs; None if none."""
    found = [(path.stat().st_mtime_ns, path) for path in folder.glob("*.jsonl")]
    for _, path in sorted(found, reverse=True):
        with contextlib.suppress(TextError):
            run = Path(str(read_header(path).get("run")))
            if run.parent == checkpoints.resolve() and run.is_dir():
                return run
    return None


def saved_conversations(folder: Path, run: Path) -> list[Path]:
    """The files of the conversations with `run`, newest first."""

    def is_of_run(path: Path) -> bool:
        try:
            return read_header(path).get("run") == str(run.resolve())
        except TextError:
            return False

    pattern = glob.escape(_file_name(run)) + "-*.jsonl"
    try:
        paths = [(path.stat().st_mtime_ns, path) for path in folder.glob(pattern)]
    except OSError:
        return []
    return [path for _, path in sorted(paths, reverse=True) if is_of_run(path)]


def _n_same(old: Sequence[Turn], new: Sequence[Turn]) -> int:
    """The number of turns at the beginning that are equal."""
    for number, (one, other) in enumerate(zip(old, new, strict=False)):
        if one != other:
            return number
    return min(len(old), len(new))


def _file_name(run: Path) -> str:
    return cut_name(run.name, MOST_NAME)


def _new_file(folder: Path, run: Path, data: bytes) -> Path:
    """Create a file with a new name that only its owner can read, and write `data` to it."""
    make_private(folder)
    stem = f"{_file_name(run)}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in range(1, MOST_FILES):
        path = folder / (f"{stem}.jsonl" if number == 1 else f"{stem}-{number}.jsonl")
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
        except FileExistsError:
            continue
        with open(handle, "wb") as file:
            file.write(data)
        return path
    raise FileExistsError(17, "all names are taken", str(folder))


def _append(path: Path, records: Sequence[JsonObject]) -> None:
    """Append lines in one write; FileNotFoundError if the file has been deleted meanwhile."""
    if records:
        with open(os.open(path, os.O_WRONLY | os.O_APPEND), "ab") as file:
            file.write(b"".join(map(to_line, records)))


def _mend_last_line(path: Path) -> None:
    """Complete the last line with a line end, or delete it if a kill cut it off."""
    data = path.read_bytes()
    start = data.rfind(b"\n") + 1
    try:
        if data[start:]:
            parse_line(data[start:])
            with open(path, "ab") as file:
                file.write(b"\n")
    except ValueError:
        os.truncate(path, start)
