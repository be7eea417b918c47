"""Manifests: size and SHA-256 of every file of a checkpoint, which is valid while they match."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from simplellm.errors import CheckpointError
from simplellm.storage.files import sha256_of, write_file
from simplellm.storage.json_files import json_bytes, read_json

Buffer = bytes | memoryview
MANIFEST_NAME = "manifest.json"
MANIFEST_VERSION = 1


class FileEntry(NamedTuple):
    """What a manifest records of a file."""

    size: int
    sha256: str


class ManifestWriter:
    """Writes the files of a new checkpoint; `finish` writes the manifest.

    The digests are those of the data, not of what the disk returns.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, FileEntry] = {}

    def write(self, name: str, data: bytes) -> None:
        path = self._folder / name
        path.parent.mkdir(exist_ok=True)
        write_file(path, data)
        self._files[name] = FileEntry(len(data), hashlib.sha256(data).hexdigest())

    def write_chunks(self, name: str, chunks: Iterable[Buffer]) -> None:
        """A file that memory does not hold as a whole."""
        digest = hashlib.sha256()
        size = 0
        with open(self._folder / name, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
                digest.update(chunk)
                size += memoryview(chunk).nbytes
            file.flush()
            os.fsync(file.fileno())
        self._files[name] = FileEntry(size, digest.hexdigest())

    def digests(self) -> dict[str, str]:
        """SHA-256 of each file so far, by name."""
        return {name: entry.sha256 for name, entry in self._files.items()}

    def finish(self) -> None:
        _write(self._folder, self._files)


def write_manifest(folder: Path) -> None:
    """Write a manifest of the files that are in `folder`."""
    names = sorted(_plain_files(folder) - {MANIFEST_NAME})
    _write(
        folder,
        {
            name: FileEntry((folder / name).stat().st_size, sha256_of(folder / name))
            for name in names
        },
    )


def verify_manifest(folder: Path) -> None:
    """CheckpointError names the first file that is missing, extra, changed or not a plain file."""
    # Before the manifest is read: reading a pipe with its name would never end.
    present = _plain_files(folder) - {MANIFEST_NAME}
    files = _read(folder)
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


def _write(folder: Path, files: dict[str, FileEntry]) -> None:
    entries = {name: entry._asdict() for name, entry in files.items()}
    write_file(folder / MANIFEST_NAME, json_bytes({"version": MANIFEST_VERSION, "files": entries}))


def _read(folder: Path) -> dict[str, FileEntry]:
    """The entries of a manifest by file name; its own bytes must be as they were written."""
    path = folder / MANIFEST_NAME
    manifest = read_json(path)
    try:
        is_as_written = path.read_bytes() == json_bytes(manifest)
        files = {
            str(name): FileEntry(entry["size"], entry["sha256"])
            for name, entry in manifest["files"].items()
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
