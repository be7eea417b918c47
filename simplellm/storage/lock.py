"""Folder locks: one writer per folder. The operating system releases the lock of a dead process."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from datetime import datetime
from pathlib import Path

from simplellm.errors import CheckpointError
from simplellm.storage.files import make_folder, try_lock

LOCK_NAME = ".lock"
TRIES = 5
RETRY_SECONDS = 0.02


class FolderLock:
    """The exclusive right to write in a folder, from `acquire` to `release`; readers need no lock.

    The lock file names its holder for error messages. It is deleted on release.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK_NAME
        self._handle: int | None = None
        self._made: list[Path] = []  # folders that `acquire` made, innermost first

    def acquire(self) -> None:
        """Take the lock and make its folder; CheckpointError names the process that holds it."""
        folder = self.path.parent
        self._made += [path for path in (folder, *folder.parents) if not path.exists()]
        try:
            while self._handle is None:
                make_folder(folder)
                self._handle = _open_locked(self.path)
            _write_holder(self._handle)
        except BaseException:
            self.release()
            raise

    def keep(self) -> None:
        """Take the lock again if its file is gone. CheckpointError if it is taken."""
        if self._handle is None or not _is_at(self._handle, self.path):
            self._close()
            self.acquire()

    def release(self) -> None:
        """Release the lock, and delete the folders that `acquire` made if they are empty."""
        is_ours = self._handle is not None and _is_at(self._handle, self.path)
        if os.name == "nt":  # Windows deletes only closed files
            self._close()
        with contextlib.suppress(OSError):
            if is_ours:
                self.path.unlink()  # before the lock is free: a lock needs a file with a name
        self._close()
        for folder in self._made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        self._made = []

    def _close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> FolderLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def lock_holder(folder: Path) -> str:
    """The process that holds the lock of a folder, in words; empty if it is free."""
    try:
        handle = os.open(folder / LOCK_NAME, os.O_RDWR)
    except OSError:
        return ""
    try:
        return "" if try_lock(handle) else _read_holder(handle)
    finally:
        os.close(handle)


def _open_locked(path: Path) -> int | None:
    """The lock file, opened and locked; None if its last holder deleted it meanwhile."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except FileNotFoundError:
        return None
    try:
        if not _try_several_times(handle):
            raise CheckpointError(
                f"{path.parent} is being trained by {_read_holder(handle)}",
                fix="wait until it ends, or train under another --name",
            )
        if _is_at(handle, path):
            return handle
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


def _try_several_times(handle: int) -> bool:
    """`try_lock` with retries, because `lock_holder` of another process locks for a moment."""
    for _ in range(TRIES):
        if try_lock(handle):
            return True
        time.sleep(RETRY_SECONDS)
    return False


def _is_at(handle: int, path: Path) -> bool:
    """Whether the open file is the file named `path`."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False


def _write_holder(handle: int) -> None:
    since = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    holder = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since})
    with contextlib.suppress(OSError):  # on a full disk the lock is held without a name
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, holder.encode())


def _read_holder(handle: int) -> str:
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        holder = json.loads(os.read(handle, 4096))
        return f"process {int(holder['pid'])} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
