"""The command `runs --prune`: delete files that are no longer needed."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from simplellm.app.console import write_json
from simplellm.app.options import PruneOptions
from simplellm.app.screen import Screen
from simplellm.app.subcommands.shared import screen_of
from simplellm.checkpoint.find_runs import find_run, list_runs
from simplellm.checkpoint.run import RunFolder
from simplellm.data.prepared_corpus import PREPARED_FOLDER, is_prepared_name
from simplellm.errors import CheckpointError, SettingError
from simplellm.storage.files import discard_folder, leftovers
from simplellm.storage.json_files import JsonObject
from simplellm.storage.lock import FolderLock

INDEX_SUFFIX = "-words"  # of the index folder beside prepared ids
YES = ("y", "yes")


@dataclass(frozen=True)
class Unneeded:
    """A file or folder that can be deleted."""

    path: Path
    reason: str

    @property
    def n_bytes(self) -> int:
        return _size(self.path)

    def to_mapping(self) -> JsonObject:
        return {"path": str(self.path), "reason": self.reason, "bytes": self.n_bytes}


def prune(options: PruneOptions) -> int:
    """Show what can be deleted, ask, and delete it. Runs in training are skipped."""
    screen = screen_of(options)
    folder = options.checkpoints
    names = [*options.names, *([options.run] if options.run else [])]
    named = {run.path.resolve(): run for run in (find_run(name, folder)[0] for name in names)}
    runs = list(named.values()) if names else list_runs(folder)
    with contextlib.ExitStack() as locks:
        locked = [run for run in runs if _lock(run, locks, screen)]
        items = [item for run in locked for item in _of_run(run)]
        # a run in training may need prepared ids that its run.json does not name yet
        if not names and locked == runs:
            items += _shared(folder, runs)
        if _confirmed(items, options, screen):
            sizes = [_delete(item.path, screen) for item in items]
            freed = [n_bytes for n_bytes in sizes if n_bytes is not None]
            screen.notice(f"deleted {len(freed)}, {sum(freed) / 1e6:,.1f} MB")
    return 0


def _lock(run: RunFolder, locks: contextlib.ExitStack, screen: Screen) -> bool:
    """Lock a run against training until `locks` is closed; False if it is being trained."""
    try:
        locks.enter_context(FolderLock(run.path))
    except CheckpointError as error:
        screen.notice(f"{error}; its checkpoints are kept")
        return False
    return True


# ---------------------------------------------------------------- what can be deleted


def _of_run(run: RunFolder) -> Iterator[Unneeded]:
    yield from (Unneeded(path, reason) for path, reason in run.superfluous().items())
    yield from (Unneeded(path, "unfinished") for path in leftovers(run.path, with_files=True))


def _shared(folder: Path, runs: list[RunFolder]) -> Iterator[Unneeded]:
    """Files beside the runs: unfinished ones, and prepared texts that no run uses."""
    prepared = folder / PREPARED_FOLDER
    for place in (folder, prepared):
        yield from (Unneeded(path, "unfinished") for path in leftovers(place))
    needed = {_prepared_name(run) for run in runs}
    if "" in needed:  # a run does not name its prepared ids: they may be any of these
        return
    for path in sorted(prepared.glob("*")):
        if is_prepared_name(path.name) and path.name not in needed:
            for one in (path, path.with_name(path.name + INDEX_SUFFIX)):
                if one.is_dir():
                    yield Unneeded(one, "prepared text that no run uses")


def _prepared_name(run: RunFolder) -> str:
    """The folder name of the prepared ids of a run; empty if it is unknown."""
    try:
        return str(run.read_info().get("prepared") or "")
    except CheckpointError:
        return ""


def _size(path: Path) -> int:
    paths = [path, *path.rglob("*")] if path.is_dir() else [path]
    return sum(path.lstat().st_size for path in paths if path.is_symlink() or path.is_file())


# ---------------------------------------------------------------- ask and delete


def _confirmed(items: list[Unneeded], options: PruneOptions, screen: Screen) -> bool:
    """Show the items and ask whether to delete them."""
    if options.json:
        write_json([item.to_mapping() for item in items])
    elif items:
        rows = [(str(item.path), f"{item.n_bytes / 1e6:.1f}", item.reason) for item in items]
        screen.table(("delete", "MB", "reason"), rows)
    if not items:
        screen.notice("nothing to delete: each run has only its best and its last two checkpoints")
        return False
    if options.yes:
        return True
    total = f"{sum(item.n_bytes for item in items) / 1e6:,.1f} MB"
    if options.json or not screen.is_interactive:
        raise SettingError(
            f"nothing was deleted ({total} can be)", fix="add --yes to delete what is listed"
        )
    screen.notice(f"delete these, {total}? [y/N]")
    return sys.stdin.readline().strip().lower() in YES


def _delete(path: Path, screen: Screen) -> int | None:
    """Delete a file or folder; returns the bytes freed.

    None if the system refuses, as Windows does while another program reads a file.
    """
    n_bytes = _size(path)
    try:
        if path.is_symlink() or path.is_file():
            path.unlink(missing_ok=True)
        elif path.name.startswith("."):
            shutil.rmtree(path, ignore_errors=True)
        else:
            discard_folder(path)
    except OSError as error:
        screen.notice(f"{path} cannot be deleted ({error.strerror})")
        return None
    return n_bytes
