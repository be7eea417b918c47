"""One writer per folder, by a lock of the operating system: however its holder ends, `kill -9` included, it is free again."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
from datetime import datetime
from pathlib import Path

from simplellm.errors import CheckpointError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK_NAME = ".lock"
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # of a file system that knows none: training goes on without
WINDOWS_LOCKED_BYTE = 1 << 30  # far behind what the file holds, which others shall read


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
            folder.mkdir(parents=True, exist_ok=True)
            while self._handle is None:
                self._handle = _open_locked(self.path)
            _say_who(self._handle)
        except BaseException:
            self.release()
            raise

    def keep(self) -> None:
        """Take the lock anew where its folder has vanished and somebody made another; else nothing happens."""
        if self._handle is not None and not _is_at(self._handle, self.path):
            os.close(self._handle)
            self._handle = None
            self.acquire()

    def release(self) -> None:
        """Give the lock back. Folders made for it go with it where nothing was put into them."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                if _is_at(self._handle, self.path):
                    self.path.unlink()  # before the lock is free: nobody is to hold a lock on a file without a name
            os.close(self._handle)
            self._handle = None
        for folder in self._made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        self._made = []

    def __enter__(self) -> FolderLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def holder(folder: Path) -> str:
    """Who writes in this folder just now, in words; empty when nobody does."""
    try:
        handle = os.open(folder / LOCK_NAME, os.O_RDWR)
    except OSError:
        return ""
    try:
        return "" if try_lock(handle) else _who(handle)
    finally:
        os.close(handle)


def try_lock(handle: int) -> bool:
    """Lock an open file or folder for this process, unless another has it; it is free again when `handle` is closed."""
    try:
        if sys.platform == "win32":
            os.lseek(handle, WINDOWS_LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            return True
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK, errno.EDEADLK):
            return False
        raise
    return True


def _open_locked(path: Path) -> int | None:
    """The lock file, opened and locked; None where its last holder took it away meanwhile."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not try_lock(handle):
            raise CheckpointError(
                f"{path.parent} is being trained by {_who(handle)}",
                fix="wait until it has ended, or train under another --name",
            )
        if _is_at(handle, path):
            return handle
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


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
