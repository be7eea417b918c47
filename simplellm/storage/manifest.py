"""Manifests: size and SHA-256 of every file of a checkpoint, which is valid while they match."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from simplellm.errors import CheckpointError
from simplellm.storage.files import sha256_of, write_file
from simplellm.storage.json_files import JsonObject, json_bytes, read_json

MANIFEST_NAME = "manifest.json"
MANIFEST_VERSION = 1


class ManifestWriter:
    """Writes the files of a new checkpoint, and a manifest of the data it was given at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, JsonObject] = {}

    def write(self, name: str, data: bytes) -> None:
        path = self._folder / name
        path.parent.mkdir(exist_ok=True)
        write_file(path, data)
        self._files[name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def finish(self) -> None:
        _write(self._folder, self._files)


def write_manifest(folder: Path) -> None:
    """Write a manifest of the files that are in `folder`."""
    _write(folder, {
        name: {"size": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)}
        for name in sorted(_plain_files(folder) - {MANIFEST_NAME})
    })  # fmt: skip


def verify_manifest(folder: Path) -> None:
    """CheckpointError names the first file that is missing, extra, changed or not a plain file."""
    # Before the manifest is read: reading a pipe with its name would never end.
    present = _plain_files(folder) - {MANIFEST_NAME}
    files = _listed(folder)
    for name in sorted(present.symmetric_difference(files)):
        raise CheckpointError(
            f"{folder / name} is {'not in the manifest' if name in present else 'missing'}"
        )
    for name, (size, digest) in files.items():
        try:
            matches = (folder / name).stat().st_size == size and sha256_of(folder / name) == digest
        except OSError as error:
            raise CheckpointError(f"cannot read {folder / name}: {error.strerror}") from error
        if not matches:
            raise CheckpointError(f"{folder / name} is damaged")


def is_intact(folder: Path) -> bool:
    try:
        verify_manifest(folder)
    except CheckpointError:
        return False
    return True


def _write(folder: Path, files: dict[str, JsonObject]) -> None:
    write_file(folder / MANIFEST_NAME, json_bytes({"version": MANIFEST_VERSION, "files": files}))


def _listed(folder: Path) -> dict[str, tuple[int, str]]:
    """File name -> size and digest of a manifest, whose own bytes must be as they were written."""
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
            f"{folder} has version {version}, this program reads version {MANIFEST_VERSION}"
        )
    return files


def _plain_files(folder: Path) -> set[str]:
    """The files in `folder`; CheckpointError for links, pipes and devices."""
    names = set()
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *files)):
            kind = path.lstat().st_mode
            if stat.S_ISREG(kind):
                names.add(path.relative_to(folder).as_posix())
            elif not stat.S_ISDIR(kind):
                what = "a link" if stat.S_ISLNK(kind) else "not a plain file"
                raise CheckpointError(f"{path} is {what}, which a checkpoint never contains")
    return names
