"""One writer per folder, by a lock of the operating system: however its holder ends, `kill -9` included, it is free again."""

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
TRIES, SECONDS_BETWEEN_TRIES = 5, 0.02


class FolderLock:
    """The right to write in a folder, held from `acquire` to `release`; readers need none.

    The file that carries it says who holds it, for whoever comes too late. It goes when it is released.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK_NAME
        self._handle: int | None = None
        self._made: list[Path] = []  # folders made for it, innermost first

    def acquire(self) -> None:
        """Take the lock, and make its folder where there is none; CheckpointError names the holder."""
        folder = self.path.parent
        self._made += [path for path in (folder, *folder.parents) if not path.exists()]
        try:
            while self._handle is None:
                make_folder(folder)
                self._handle = _open_locked(self.path)
            _say_who(self._handle)
        except BaseException:
            self.release()
            raise

    def keep(self) -> None:
        """Take the lock anew where its folder has vanished meanwhile; CheckpointError when another was quicker."""
        if self._handle is None or not _is_at(self._handle, self.path):
            self._close()
            self.acquire()

    def release(self) -> None:
        """Give the lock back. Folders made for it go with it where nothing was put into them."""
        is_ours = self._handle is not None and _is_at(self._handle, self.path)
        if (
            os.name == "nt"
        ):  # no open file can be deleted there: ours must be closed first, one that another opens next stays
            self._close()
        with contextlib.suppress(OSError):
            if is_ours:
                self.path.unlink()  # elsewhere before the lock is free: nobody is to hold a lock on a file without a name
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
    """Who writes in this folder just now, in words; empty when nobody does."""
    try:
        handle = os.open(folder / LOCK_NAME, os.O_RDWR)
    except OSError:
        return ""
    try:
        return "" if try_lock(handle) else _who(handle)
    finally:
        os.close(handle)


def _open_locked(path: Path) -> int | None:
    """The lock file, opened and locked; None where its last holder took it away meanwhile."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except FileNotFoundError:
        return None
    try:
        if not _try_a_while(handle):
            raise CheckpointError(
                f"{path.parent} is being trained by {_who(handle)}",
                fix="wait until it ends, or train under another --name",
            )
        if _is_at(handle, path):
            return handle
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


def _try_a_while(handle: int) -> bool:
    """As `try_lock`, but not put off by somebody who only asks, as `holder` does."""
    for _ in range(TRIES):
        if try_lock(handle):
            return True
        time.sleep(SECONDS_BETWEEN_TRIES)
    return False


def _is_at(handle: int, path: Path) -> bool:
    """Whether the open file is the one that has the name `path`."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False


def _say_who(handle: int) -> None:
    since = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    who = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since})
    with contextlib.suppress(OSError):  # a full disk: the lock holds without a name on it
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, who.encode())


def _who(handle: int) -> str:
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        who = json.loads(os.read(handle, 4096))
        return f"process {int(who['pid'])} on {who['host']} since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
