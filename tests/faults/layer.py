"""Observes every write, fsync, rename and new folder below one folder, and makes them fail."""

from __future__ import annotations

import builtins
import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import pytest

ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS)
TEMPORARY = re.compile(r"\.tmp-(.+?)-[0-9a-f]{8}")


class Event(NamedTuple):
    """A `write`, `fsync`, `rename`, `replace` or `mkdir` that is about to happen."""

    kind: str
    path: str  # relative to the observed folder
    target: str = ""  # the new name

    @property
    def name(self) -> str:
        """The same for the same point of each save: `fsync run/step/model.safetensors`."""
        is_discard = os.path.basename(self.target).startswith(".tmp-")
        path = TEMPORARY.sub(r"\1", self.path if is_discard else self.target or self.path)
        return f"{'discard' if is_discard else self.kind} {re.sub(r'step-[0-9]+', 'step', path)}"


class Disk:
    """Within the block `before(event)` is called before each event.

    It may raise an OSError, which the event's caller gets, or end the process. A write that fails
    writes half of its data. Deletions are not observed: they work on a full disk.
    """

    def __init__(self, folder: Path, before: Callable[[Event], None] = lambda event: None) -> None:
        self.folder, self.before = folder.resolve(), before
        self.events: list[Event] = []
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> Disk:
        for name in ("rename", "replace"):
            self._patch.setattr(os, name, self._moving(name, getattr(os, name)))
        self._patch.setattr(os, "mkdir", self._making(os.mkdir))
        self._patch.setattr(os, "fsync", self._syncing(os.fsync))
        self._patch.setattr(builtins, "open", self._opening(builtins.open))
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()

    def _report(self, kind: str, path: Any, target: Any = "") -> None:
        below = self._below(path)
        if below is not None:
            event = Event(kind, below, self._below(target) or "" if target else "")
            self.events.append(event)
            self.before(event)

    def _below(self, path: Any) -> str | None:
        if not isinstance(path, (str, os.PathLike)):
            return None
        path = Path(os.path.abspath(path))
        return (
            path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else None
        )

    def _moving(self, kind: str, original: Callable[..., None]) -> Callable[..., None]:
        def move(source: Any, target: Any, **options: Any) -> None:
            self._report(kind, source, target)
            original(source, target, **options)

        return move

    def _making(self, original: Callable[..., None]) -> Callable[..., None]:
        def make(path: Any, *arguments: Any, **options: Any) -> None:
            self._report("mkdir", path)
            original(path, *arguments, **options)

        return make

    def _syncing(self, original: Callable[[int], None]) -> Callable[[int], None]:
        def sync(handle: int) -> None:
            self._report("fsync", os.readlink(f"/proc/self/fd/{handle}"))
            original(handle)

        return sync

    def _opening(self, original: Callable[..., IO]) -> Callable[..., IO]:
        def opened(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            file = original(path, mode, *arguments, **options)
            is_observed = not mode.startswith("r") and self._below(path) is not None
            return _ObservedFile(file, lambda: self._report("write", path)) if is_observed else file

        return opened


class _ObservedFile:
    """An open file that calls `report` before each write; if it raises, half is written."""

    def __init__(self, file: IO, report: Callable[[], None]) -> None:
        self._file, self._report = file, report

    def write(self, data: Any) -> int:
        try:
            self._report()
        except BaseException:
            self._file.write(data[: len(data) // 2])
            self._file.flush()
            raise
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _ObservedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class Fail:
    """Makes `times` events fail with the error `number`, beginning with event `at` (from 0)."""

    def __init__(self, at: int, number: int, times: float = 1) -> None:
        self.at, self.number, self.times = at, number, times
        self.seen = 0

    def __call__(self, event: Event) -> None:
        self.seen += 1
        if self.at < self.seen <= self.at + self.times:
            raise OSError(self.number, os.strerror(self.number), event.path)


class Durability:
    """Checks that events are in an order that survives a power cut.

    A file or folder must be on the disk before it gets its final name. `mistakes` lists the renames
    that came too early; `finish` adds what was never synced.
    """

    def __init__(self) -> None:
        self.unsynced: set[str] = set()  # written files, and folders with new entries
        self.moved: set[str] = set()  # folders in which something was renamed
        self.mistakes: list[str] = []

    def take(self, event: Event) -> None:
        parent = os.path.dirname(event.path) or "."
        if event.kind == "write" and not event.path.endswith("log.jsonl"):  # may lose its end
            self.unsynced |= {event.path, parent}
        elif event.kind == "mkdir":
            self.unsynced.add(parent)
        elif event.kind == "fsync":
            self.unsynced.discard(event.path)
            self.moved.discard(event.path)
        elif event.kind in ("rename", "replace"):
            self._move(event, os.path.dirname(event.target) or ".")

    def finish(self) -> list[str]:
        return self.mistakes + [
            f"{path} is not on the disk" for path in sorted(self.unsynced | self.moved)
        ]

    def _move(self, event: Event, parent: str) -> None:
        inside = {
            path
            for path in self.unsynced
            if path == event.path or path.startswith(event.path + "/")
        }
        if inside:
            self.mistakes.append(
                f"{event.target} gets its name before {min(inside)} is on the disk"
            )
        if waiting := self.moved | self.unsynced - inside - {parent}:
            self.mistakes.append(
                f"{event.target} gets its name before {min(waiting)} is on the disk"
            )
        self.unsynced -= inside
        if not os.path.basename(event.target).startswith(".tmp-"):  # a deletion may be undone
            self.moved.add(parent)
