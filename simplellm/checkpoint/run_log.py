"""The run log: records of a training run, written to log.jsonl and to other sinks.

A record has a "kind" (step, evaluation, final, ...) and figures by name.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from simplellm.storage.files import replace_file
from simplellm.storage.json_files import JsonObject

LogRecord = JsonObject  # one line of log.jsonl


class Sink(Protocol):
    """Receives the records of a training run."""

    def write(self, record: LogRecord) -> None: ...


class Sinks:
    """Several sinks as one. `Sinks()` discards all records."""

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = sinks

    def write(self, record: LogRecord) -> None:
        for sink in self._sinks:
            sink.write(record)


class JsonlSink:
    """Appends each record to a file as one line of JSON, flushed at once.

    A failed write never aborts training: `notice` is called once, and the record is lost.
    """

    def __init__(self, path: Path, notice: Callable[[str], None] = lambda text: None) -> None:
        self._path = path
        self._notice = notice
        self._has_failed = False

    def write(self, record: LogRecord) -> None:
        line_end = "\n" if self._has_failed else ""  # ends the line that may be written in part
        try:
            with open(self._path, "a", encoding="utf-8", newline="\n") as file:
                file.write(line_end + _to_line(record))
        except OSError as error:
            if not self._has_failed:
                self._notice(f"cannot write {self._path}: {error.strerror}; going on without")
            self._has_failed = True
        else:
            self._has_failed = False


def read_log(path: Path) -> Iterator[LogRecord]:
    """The records of a log.jsonl; lines that a kill or a full disk cut off are skipped."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(line)
            if isinstance(record, dict):
                yield record


def cut_log(path: Path, step: int) -> None:
    """Delete the records after `step`; a resumed run writes them again."""
    kept = [record for record in read_log(path) if not _is_after(record, step)]
    replace_file(path, "".join(map(_to_line, kept)).encode())


def _to_line(record: LogRecord) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _is_after(record: LogRecord, step: int) -> bool:
    return isinstance(record.get("step"), int) and record["step"] > step
