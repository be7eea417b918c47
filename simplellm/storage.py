"""Files that appear whole or not at all: the only room that writes to disk for keeps.

The order is always the same: write into a new temporary name beside the target, flush and fsync
each file, fsync the folder, rename, fsync the parent. A crash leaves the old state or the new one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TEMPORARY_MARK = ".tmp-"
HASH_BLOCK_BYTES = 1 << 20


def write_file(path: Path, data: bytes) -> None:
    """Write a new file and wait until it is on the disk. The name is not atomic: see `replace_file`."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, data: bytes) -> None:
    """Make `path` hold `data`: another process sees the old content or the new, never a part."""
    temporary = temporary_beside(path)
    try:
        write_file(temporary, data)
        os.replace(temporary, path)
        fsync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to fill, which gets the name `path` when the block ends well and goes when not.

    Raises FileExistsError (or OSError ENOTEMPTY) when `path` is there by then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    temporary.mkdir()
    try:
        yield temporary
        for folder, _, _ in os.walk(temporary):
            fsync_folder(Path(folder))
        os.rename(temporary, path)
        fsync_folder(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


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
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def to_json(value: Any) -> bytes:
    """JSON as this project writes it: UTF-8, readable, one newline at the end, no NaN."""
    return (json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode()
