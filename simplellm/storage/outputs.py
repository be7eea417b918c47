"""Files and folders at a path that the user names: checked, then written atomically.

Nothing is left behind by a full disk, an error or Ctrl-C. A process that is killed leaves a hidden
temporary folder beside the path; the next write to the same path removes it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

from simplellm.errors import SettingError
from simplellm.storage.files import (
    TEMPORARY_MARK,
    fsync_folders,
    leftovers,
    place_file,
    place_folder,
    temporary_folder,
)


def check_output(
    path: Path, *, is_folder: bool, force: bool, replaceable: Collection[str] = ()
) -> None:
    """SettingError unless a file or a folder can be written to `path`.

    force: an existing file is replaced; so is a folder that has only files named in `replaceable`.
    An empty folder counts as missing.
    """
    if str(path) == "-":
        raise SettingError(
            "--out is a file or a folder, got - (standard output)", fix="name a path"
        )
    if not path.parent.is_dir():
        raise SettingError(
            f"--out needs a folder that exists, got {path}",
            fix=f"create it: mkdir -p {path.parent}",
        )
    if path.is_dir() and not is_folder:
        raise SettingError(
            f"--out is the file to write, got the folder {path}", fix=f"--out {path / 'NAME'}"
        )
    if path.exists() and not path.is_dir() and is_folder:
        raise SettingError(
            f"--out is the folder to write, got the file {path}", fix="name a new folder"
        )
    if path.exists() and not path.is_dir() and not path.is_file():
        raise SettingError(
            f"--out is a file to write, got {path}, which is none", fix="name a file"
        )
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise SettingError(
            f"--out is in a folder that cannot be written, got {path}", fix="name another folder"
        )
    names = _names_in(path)
    if names is None:
        return
    if not force:
        raise SettingError(
            f"{path} already exists", fix="--force replaces it; or name another --out"
        )
    if foreign := sorted(names.difference(replaceable)):
        raise SettingError(
            f"{path} is not replaced: it has {foreign[0]}, which no export writes",
            fix="name another --out",
        )


def _names_in(path: Path) -> set[str] | None:
    """What would be lost: the names in a folder, none of a file; None if there is nothing."""
    if not path.is_dir():
        return set() if path.exists() else None
    return {entry.name for entry in os.scandir(path)} or None


@contextlib.contextmanager
def new_output(path: Path, *, is_folder: bool, force: bool) -> Iterator[Path]:
    """A temporary path for the block to write, moved to `path` after it.

    is_folder: the block fills a folder; otherwise it creates a file. `path` was checked by
    `check_output`; an OSError such as FileExistsError if it was created since, unless `force`.
    """
    path = path.resolve()  # a link stays, and its target is written
    mark = path.with_name(f"export-{zlib.crc32(os.fsencode(path.name)):08x}")  # of any name, short
    _remove_abandoned(mark)
    with temporary_folder(mark) as temporary:
        if is_folder:
            yield temporary
            fsync_folders(temporary)
            place_folder(temporary, path, replace=force)
        else:
            yield temporary / "file"
            place_file(temporary / "file", path, replace=force)


def _remove_abandoned(mark: Path) -> None:
    """Remove what killed processes left of earlier writes to the same path."""
    for folder in leftovers(mark.parent):
        if folder.name.startswith(f"{TEMPORARY_MARK}{mark.name}-"):
            shutil.rmtree(folder, ignore_errors=True)
