"""Files that appear whole or not at all: the only room that writes to disk for keeps.

The order is always the same: write into a new temporary name beside the target, flush and fsync
each file, fsync the folder, rename, fsync the parent. A crash leaves the old state or the new one,
and perhaps a temporary name, which the next one to write there removes.
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
NO_LOCKS = (
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.ENOLCK,
)  # of a file system that knows none: going on without
RETRY_SECONDS = (
    0.01,
    0.03,
    0.1,
    0.3,
)  # on Windows, while a virus scanner or an indexer holds a file
ABANDONED_SECONDS = (
    24 * 3600.0
)  # a guess: no file of a folder in the making stays unchanged for so long
WINDOWS_LOCKED_BYTE = 1 << 30  # far behind what a locked file holds, which others shall read


def write_file(path: Path, data: bytes) -> None:
    """Write a new file and wait until it is on the disk. The name is not atomic: see `replace_file`."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, data: bytes, mode: int | None = None) -> None:
    """Make `path` hold `data`: another process sees the old content or the new, never a part.

    `mode` is who may read it, such as 0o600; None leaves that to the system.
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
    """A temporary folder to fill, which gets the name `path` when the block ends well and goes when not.

    Raises FileExistsError (or OSError ENOTEMPTY) when `path` is there by then. While this process lives,
    `remove_leftovers` of another knows the temporary folder for its own.
    """
    make_folder(path.parent)
    temporary, handle = _held_temporary(path)
    try:
        with _gone_when_failed(temporary):
            yield temporary
            for folder, _, _ in os.walk(temporary):
                fsync_folder(Path(folder))
            _rename(os.rename, temporary, path)
        fsync_folder(path.parent)
    finally:
        if handle is not None:
            os.close(handle)


def _rename(action: Callable[[Path, Path], None], source: Path, target: Path) -> None:
    """`os.rename` or `os.replace`; on Windows repeated for half a second while another program has a file open."""
    for seconds in RETRY_SECONDS if os.name == "nt" else ():
        try:
            return action(source, target)
        except PermissionError:
            time.sleep(seconds)
    action(source, target)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, so that their names last; nothing happens where it is there."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        fsync_folder(folder.parent)


def discard_folder(path: Path) -> None:
    """Delete a folder so that no half of it is ever taken for the whole."""
    hidden = temporary_beside(path)
    _rename(os.rename, path, hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def leftovers(folder: Path, with_files: bool = False) -> list[Path]:
    """Temporary names in `folder` that nobody writes any more.

    Folders tell that themselves, on Windows by their age. Files do not.
    `with_files`: the caller holds the lock of `folder`, so that all temporary names in it are left over.
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
    """A new temporary folder beside `path`, locked until the handle is closed (None on Windows, which locks no folder)."""
    while True:
        temporary = temporary_beside(path)
        temporary.mkdir()
        if os.name == "nt":
            return temporary, None
        with contextlib.suppress(FileNotFoundError), _gone_when_failed(temporary):
            handle = os.open(temporary, os.O_RDONLY)
            if try_lock(handle) and temporary.exists():
                return temporary, handle
            os.close(handle)
            raise FileNotFoundError(
                temporary
            )  # another process took it for a leftover before it was locked


@contextlib.contextmanager
def _gone_when_failed(folder: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _is_written(folder: Path) -> bool:
    """Whether the process that made a temporary folder is still at it; on Windows, which locks no folder, a guess by age."""
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
    """When a folder or anything in it was last written to; now where that cannot be told."""
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
    except OSError:
        return time.time()


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


def temporary_beside(path: Path) -> Path:
    return path.parent / f"{TEMPORARY_MARK}{path.name}-{uuid.uuid4().hex[:8]}"


def fsync_folder(path: Path) -> None:
    """Make names in `path` durable, where the system can (Windows cannot open a folder)."""
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
