"""The commands that look after what is kept: verify, and runs --prune."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simplellm.app.actions import Options, folder_of, screen_of
from simplellm.app.chat import is_terminal
from simplellm.app.console import write_json
from simplellm.app.render import Screen
from simplellm.checkpoint.find_runs import find_run, list_runs
from simplellm.checkpoint.run import Run
from simplellm.checkpoint.step_folder import verify_checkpoint
from simplellm.checkpoint.step_names import step_of
from simplellm.data.prepared import PREPARED_FOLDER, is_prepared_name
from simplellm.errors import CheckpointError, SettingError
from simplellm.storage.files import discard_folder, leftovers
from simplellm.storage.lock import FolderLock

INDEX_SUFFIX = "-words"  # of the index that stands beside prepared ids
YES = ("y", "yes")


@dataclass(frozen=True)
class Item:
    """Something that is kept for nothing."""

    path: Path
    reason: str

    @property
    def n_bytes(self) -> int:
        return _size(self.path)

    def to_mapping(self) -> dict[str, Any]:
        return {"path": str(self.path), "reason": self.reason, "bytes": self.n_bytes}


def _size(path: Path) -> int:
    paths = [path, *path.rglob("*")] if path.is_dir() else [path]
    return sum(path.lstat().st_size for path in paths if path.is_symlink() or path.is_file())


def verify(options: Options) -> int:
    """Which checkpoints of a run are whole; 1 when one is not."""
    screen = screen_of(options)
    run, named = find_run(options["checkpoint"] or options["run"], folder_of(options))
    rows = [_examined(run, folder) for folder in ([named] if named else run.step_folders())]
    rows = [
        row for row in rows if row["whole"] or Path(row["path"]).exists()
    ]  # a training lets go of old ones meanwhile
    if not rows:
        raise CheckpointError(
            f"run {run.name} has no checkpoint",
            fix=f"train it: simplellm train TEXT --name {run.name}",
        )
    if options["json"]:
        write_json(rows)
    else:
        screen.table(
            ("checkpoint", "state"), [(row["path"], row["problem"] or "whole") for row in rows]
        )
    return 0 if all(row["whole"] for row in rows) else 1


def _examined(run: Run, folder: Path) -> dict[str, Any]:
    problem = None
    try:
        verify_checkpoint(folder)
    except CheckpointError as error:
        problem = str(error)
    row = {"run": run.name, "path": str(folder), "step": step_of(folder)}
    return {**row, "whole": problem is None, "problem": problem}


def prune(options: Options) -> int:
    """Delete what retention lets go, after showing it and asking."""
    screen, folder = screen_of(options), folder_of(options)
    runs = [find_run(options["run"], folder)[0]] if options["run"] else list_runs(folder)
    with contextlib.ExitStack() as locks:
        free = [run for run in runs if _claim(run, locks, screen)]
        items = [item for run in free for item in _of_run(run)]
        if (
            not options["run"] and free == runs
        ):  # a run in training may need what no run.json names yet
            items += _shared(folder, runs)
        deletes = _shown_and_agreed(items, options, screen)
        if deletes:
            freed = [
                n_bytes for item in items if (n_bytes := _delete(item.path, screen)) is not None
            ]
            screen.notice(f"deleted {len(freed)}, {sum(freed) / 1e6:,.1f} MB")
    return 0


def _claim(run: Run, locks: contextlib.ExitStack, screen: Screen) -> bool:
    """Whether nobody trains this run; nobody can until the locks are given back."""
    try:
        locks.enter_context(FolderLock(run.path))
    except CheckpointError as error:
        screen.notice(f"{error}: left alone")
        return False
    return True


def _of_run(run: Run) -> Iterator[Item]:
    yield from (Item(path, reason) for path, reason in run.superfluous().items())
    yield from (Item(path, "left half-done") for path in leftovers(run.path, with_files=True))


def _shared(folder: Path, runs: list[Run]) -> Iterator[Item]:
    """What lies beside the runs: left half-done, or prepared for a text that no run was trained on."""
    prepared = folder / PREPARED_FOLDER
    yield from (
        Item(path, "left half-done") for place in (folder, prepared) for path in leftovers(place)
    )
    needed = {_prepared_for(run) for run in runs}
    if "" in needed:  # a run that does not say: any may be its own
        return
    for path in sorted(prepared.glob("*")):
        if is_prepared_name(path.name) and path.name not in needed:
            index = path.with_name(path.name + INDEX_SUFFIX)
            yield from (
                Item(one, "prepared for no run that is there")
                for one in (path, index)
                if one.is_dir()
            )


def _prepared_for(run: Run) -> str:
    try:
        return str(run.read_info().get("prepared") or "")
    except CheckpointError:
        return ""


def _shown_and_agreed(items: list[Item], options: Options, screen: Screen) -> bool:
    """Show what would go; whether it shall."""
    if options["json"]:
        write_json([item.to_mapping() for item in items])
    elif items:
        screen.table(
            ("goes", "MB", "because"),
            [(str(i.path), f"{i.n_bytes / 1e6:.1f}", i.reason) for i in items],
        )
    if not items:
        screen.notice("nothing to delete: each run has its best checkpoint and its last two")
        return False
    if options["yes"]:
        return True
    if options["json"] or not is_terminal(screen):
        raise SettingError(
            f"nothing was deleted ({_megabytes(items)} would be)",
            fix="--yes deletes what is listed",
        )
    screen.notice(f"delete these, {_megabytes(items)}? [y/N]")
    return sys.stdin.readline().strip().lower() in YES


def _megabytes(items: list[Item]) -> str:
    return f"{sum(item.n_bytes for item in items) / 1e6:,.1f} MB"


def _delete(path: Path, screen: Screen) -> int | None:
    """The bytes that were freed; None where the system refuses, as Windows does while another program reads a file."""
    n_bytes = _size(path)
    try:
        if path.is_symlink() or path.is_file():
            path.unlink(missing_ok=True)
        elif path.name.startswith("."):
            shutil.rmtree(path, ignore_errors=True)
        else:
            discard_folder(path)
    except OSError as error:
        screen.notice(f"{path} cannot be deleted ({error.strerror}): left alone")
        return None
    return n_bytes
