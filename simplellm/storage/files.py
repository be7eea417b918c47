"""Atomic and durable file and folder writes.

Each write has the same order: write to a temporary name beside the target, fsync each file, fsync
the folder, rename, fsync the parent folder. A crash leaves the old or the new state, and perhaps a
temporary file or folder, which the next writer removes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

TEMPORARY_MARK = ".tmp-"
HASH_BLOCK_BYTES = 1 << 20
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # the file system has no locks
NO_LINKS = (errno.EPERM, errno.EMLINK, errno.EXDEV, *NO_LOCKS)  # or no second name of a file
RETRY_SECONDS = (0.01, 0.03, 0.1, 0.3)  # on Windows, while a virus scanner holds a file open
ABANDONED_SECONDS = 24 * 3600.0  # an unchanged temporary folder on Windows has no writer (guess)
WINDOWS_LOCKED_BYTE = 1 << 30  # far after the content of a locked file, which others can read


def write_file(path: Path, data: bytes) -> None:
    """Write a file and fsync it. Not atomic: see `replace_file`."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, data: bytes, mode: int | None = None) -> None:
    """Replace the content of `path` atomically: readers see the old or the new content.

    `mode` sets the permissions, such as 0o600; None: the default of the system.
    """
    temporary = temporary_beside(path)
    try:
        write_file(temporary, data)
        if mode is not None:
            os.chmod(temporary, mode)
        _rename(os.replace, temporary, path)
        fsync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder, renamed to `path` after the block; removed if the block fails.

    Raises FileExistsError (or OSError ENOTEMPTY) if `path` exists by then. The folder is locked
    while it is written, so that `remove_leftovers` of another process does not remove it.
    """
    make_folder(path.parent)
    with temporary_folder(path) as temporary:
        yield temporary
        fsync_folders(temporary)
        _rename(os.rename, temporary, path)
        fsync_folder(path.parent)


@contextlib.contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """A locked temporary folder beside `path`; removed after the block, unless it was renamed."""
    temporary, handle = _held_temporary(path)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def place_file(source: Path, target: Path, replace: bool) -> None:
    """Move a file durably to `target`; FileExistsError if that exists and is not to be replaced."""
    if replace or not _is_linked(source, target):
        _rename(os.replace if replace else os.rename, source, target)
    fsync_folder(target.parent)


def _is_linked(source: Path, target: Path) -> bool:
    """Give a file a second name, which fails if that is in use; False where links do not exist."""
    if os.name == "nt":  # there a rename fails if the name is in use
        return False
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        return False
    return True


def place_folder(source: Path, target: Path, replace: bool) -> None:
    """Move a folder durably to `target`, where there is none, or an empty one, or with `replace`.

    A replaced folder is moved away first and deleted last. Otherwise an OSError such as ENOTEMPTY.
    """
    hidden = temporary_beside(target)
    if target.exists() and (replace or os.name == "nt"):
        if replace:
            _rename(os.rename, target, hidden)
        else:
            target.rmdir()
    try:
        _rename(os.rename, source, target)
    except BaseException:
        if hidden.exists():
            hidden.rename(target)
        raise
    shutil.rmtree(hidden, ignore_errors=True)
    fsync_folder(target.parent)


def _rename(action: Callable[[Path, Path], None], source: Path, target: Path) -> None:
    """`os.rename` or `os.replace`, with retries on Windows while a program has a file open."""
    for seconds in RETRY_SECONDS if os.name == "nt" else ():
        try:
            return action(source, target)
        except PermissionError:
            time.sleep(seconds)
    action(source, target)


def make_folder(path: Path) -> None:
    """Make a folder and its parents durably, unless they exist."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        fsync_folder(folder.parent)


def discard_folder(path: Path) -> None:
    """Delete a folder atomically: it is renamed first."""
    hidden = temporary_beside(path)
    _rename(os.rename, path, hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def leftovers(folder: Path, with_files: bool = False) -> list[Path]:
    """Temporary folders in `folder` that no process writes any more: unlocked, on Windows old.

    `with_files`: temporary files and all temporary folders. The caller must hold the lock of
    `folder`, because temporary files have no lock of their own.
    """
    found = sorted(folder.glob(TEMPORARY_MARK + "*"))
    return [path for path in found if with_files or (path.is_dir() and not _is_written(path))]


def remove_leftovers(folder: Path, with_files: bool = False) -> None:
    for path in leftovers(folder, with_files):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def _held_temporary(path: Path) -> tuple[Path, int | None]:
    """A new temporary folder beside `path`, and a handle that locks it (None on Windows)."""
    while True:
        temporary = temporary_beside(path)
        temporary.mkdir()
        if os.name == "nt":
            return temporary, None
        with contextlib.suppress(FileNotFoundError), _removed_on_failure(temporary):
            handle = os.open(temporary, os.O_RDONLY)
            if try_lock(handle) and temporary.exists():
                return temporary, handle
            os.close(handle)
            raise FileNotFoundError(temporary)  # removed as a leftover before it was locked


@contextlib.contextmanager
def _removed_on_failure(folder: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _is_written(folder: Path) -> bool:
    """Whether a process still writes a temporary folder: by its lock, on Windows by its age."""
    if os.name == "nt":
        return time.time() - _last_change(folder) < ABANDONED_SECONDS
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return True
    try:
        return not try_lock(handle)
    finally:
        os.close(handle)


def _last_change(folder: Path) -> float:
    """Time of the last change of a folder or its content; now if it cannot be read."""
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
    except OSError:
        return time.time()


def try_lock(handle: int) -> bool:
    """Lock an open file or folder until `handle` is closed; False if another process holds it."""
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


def temporary_beside(path: Path) -> Path:
    return path.parent / f"{TEMPORARY_MARK}{path.name}-{uuid.uuid4().hex[:8]}"


def fsync_folders(path: Path) -> None:
    """Make the names in a folder and in all folders below it durable."""
    for folder, _, _ in os.walk(path):
        fsync_folder(Path(folder))


def fsync_folder(path: Path) -> None:
    """Make the names in a folder durable (not on Windows, which cannot open a folder)."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return sha256_of_stream(file)


def sha256_of_stream(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(HASH_BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()


def digests_of(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of each named file in `folder`."""
    return {name: sha256_of(folder / name) for name in names}


def has_digests(folder: Path, names: Iterable[str], digests: Mapping[str, str]) -> bool:
    """Whether each named file has its digest; OSError or KeyError if there is no file or digest."""
    return all(sha256_of(folder / name) == digests[name] for name in names)
