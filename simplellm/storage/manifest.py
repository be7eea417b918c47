"""The manifest of a checkpoint: the size and SHA-256 of every file. A folder is a checkpoint while they are right."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Any

from simplellm.errors import CheckpointError
from simplellm.storage.files import sha256_of, write_file
from simplellm.storage.json_files import json_bytes, read_json

MANIFEST_NAME = "manifest.json"
MANIFEST_VERSION = 1


class ManifestWriter:
    """Writes the files of a new checkpoint and, last of all, the manifest that vouches for what was meant to be in them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, dict[str, Any]] = {}

    def write(self, name: str, data: bytes) -> None:
        path = self._folder / name
        path.parent.mkdir(exist_ok=True)
        write_file(path, data)
        self._files[name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def finish(self) -> None:
        _write(self._folder, self._files)


def write_manifest(folder: Path) -> None:
    """Vouch for the files of `folder` as they are."""
    _write(folder, {
        name: {"size": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)}
        for name in sorted(_plain_files(folder) - {MANIFEST_NAME})
    })  # fmt: skip


def verify_manifest(folder: Path) -> None:
    """Raise CheckpointError that names the first file of `folder` which is missing, extra, a link or changed."""
    there = _plain_files(folder) - {
        MANIFEST_NAME
    }  # first: a pipe called manifest.json would never end
    files = _listed(folder)
    for name in sorted(there.symmetric_difference(files)):
        raise CheckpointError(
            f"{folder / name} is {'not in the manifest' if name in there else 'missing'}"
        )
    for name, (size, digest) in files.items():
        try:
            whole = (folder / name).stat().st_size == size and sha256_of(folder / name) == digest
        except OSError as error:
            raise CheckpointError(f"cannot read {folder / name}: {error.strerror}") from error
        if not whole:
            raise CheckpointError(f"{folder / name} is damaged")


def is_intact(folder: Path) -> bool:
    try:
        verify_manifest(folder)
    except CheckpointError:
        return False
    return True


def _write(folder: Path, files: dict[str, dict[str, Any]]) -> None:
    write_file(folder / MANIFEST_NAME, json_bytes({"version": MANIFEST_VERSION, "files": files}))


def _listed(folder: Path) -> dict[str, tuple[int, str]]:
    """Size and digest by name, as the manifest has them; it is itself looked at bit by bit."""
    path = folder / MANIFEST_NAME
    manifest = read_json(path)
    try:
        is_as_written = path.read_bytes() == json_bytes(manifest)
        files = {
            str(name): (entry["size"], entry["sha256"]) for name, entry in manifest["files"].items()
        }
        version = manifest["version"]
    except (KeyError, TypeError, AttributeError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} is damaged") from error
    if not is_as_written:
        raise CheckpointError(f"{path} is damaged")
    if version != MANIFEST_VERSION:
        raise CheckpointError(
            f"{folder} is of version {version}, this program reads {MANIFEST_VERSION}"
        )
    return files


def _plain_files(folder: Path) -> set[str]:
    """The files under `folder`; CheckpointError for what is neither file nor folder: a link, a pipe, a device."""
    names = set()
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *files)):
            kind = path.lstat().st_mode
            if stat.S_ISREG(kind):
                names.add(path.relative_to(folder).as_posix())
            elif not stat.S_ISDIR(kind):
                what = "a link" if stat.S_ISLNK(kind) else "no plain file"
                raise CheckpointError(f"{path} is {what}: that is no part of a checkpoint")
    return names
