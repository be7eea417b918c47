"""Which files the TEXT arguments name: files, folders and globs, in natural order.

A folder gives its text files. It leaves out what is hardly ever meant: hidden files, training runs,
saved conversations, package folders, virtual environments, compressed and office files. Any file
can be named itself.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from simplellm.errors import Notice, TextError
from simplellm.storage.user_paths import expand_user

STDIN_NAME = "-"
TEXT_SUFFIXES = (".txt", ".text", ".md", ".markdown", ".rst", ".log", ".jsonl")
PACKAGE_FOLDERS = ("node_modules", "__pycache__", "site-packages")
SIGNATURE_BYTES = 512
SIGNATURES = {  # first bytes -> what the file is
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!": "rar",
    b"PK\x03\x04": "zip",
    b"%PDF-": "PDF",
    b"{\\rtf": "RTF",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "Microsoft Office",
    b"SQLite format 3\x00": "SQLite",
    b"\x89PNG": "PNG picture",
    b"\xff\xd8\xff": "JPEG picture",
    b"GGUF": "GGUF model",
    b"PAR1": "Parquet",
}
ZIP_CONTENTS = {  # names inside a zip file -> what it is; office files are zip files
    b"word/": "Word document",
    b"[Content_Types].xml": "Office document",
    b"mimetypeapplication/vnd.oasis": "OpenDocument",
    b"mimetypeapplication/epub": "EPUB book",
}
PACKED = ("gzip", "bzip2", "xz", "zstd", "7z", "rar", "zip", "tar")
TAR_MARK = (257, b"ustar")  # offset and bytes


@dataclass(frozen=True)
class TextFile:
    """One file to read. `is_listed`: found in a folder; it is left out if it is unreadable."""

    name: str
    is_listed: bool = False


def find_text_files(texts: Iterable[str], notice: Notice = lambda text: None) -> list[TextFile]:
    """The files that `texts` name; STDIN_NAME stands for itself.

    A notice says what is left out of a folder. TextError if a text names no file.
    """
    return [file for text in texts for file in _find(text, notice)]


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key by which `2.txt` comes before `10.txt`, and capital letters make no difference."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def is_json_lines(name: str) -> bool:
    return name.lower().endswith(".jsonl")


def container_type(head: bytes) -> str | None:
    """What a compressed, office or other binary file is, by its first bytes; None if unknown."""
    offset, mark = TAR_MARK
    if head[offset : offset + len(mark)] == mark:
        return "tar"
    found = next((kind for start, kind in SIGNATURES.items() if head.startswith(start)), None)
    if found == "zip":
        return next((kind for part, kind in ZIP_CONTENTS.items() if part in head), "zip")
    return found


def shown_name(text: str) -> str:
    """The name of a text in messages."""
    return "standard input" if text == STDIN_NAME else text


def container_error(name: str, kind: str) -> TextError:
    fix = "unpack it first" if kind in PACKED else "save its text as .txt (UTF-8) and name that"
    return TextError(f"{name} is not text but {kind}", fix=fix)


def _find(text: str, notice: Notice) -> Iterator[TextFile]:
    path = expand_user(text)
    if text == STDIN_NAME:
        yield TextFile(text)
    elif _exists(path) and Path(path).is_dir():
        yield from _folder_files(path, notice)
    elif _exists(path):
        yield TextFile(path)
    elif glob.has_magic(path):
        matches = [name for name in glob.glob(path, recursive=True) if Path(name).is_file()]
        if not matches:
            raise TextError(f"no file matches {text}", fix="check the pattern and quote it")
        yield from map(TextFile, sorted(matches, key=natural_key))
    else:
        raise TextError(
            f"there is no file {text[:200] or repr(text)}",
            fix="check the path; it can also be a folder, a glob or - (stdin)",
        )


def _exists(text: str) -> bool:
    """Whether the file or folder exists; False for invalid and empty names."""
    try:
        return bool(text) and Path(text).exists()
    except (OSError, ValueError):
        return False


def _folder_files(folder: str, notice: Notice) -> list[TextFile]:
    if _is_run(Path(folder)):
        raise TextError(f"{folder} is a training run, not a text", fix="name the text itself")
    left_out: Counter[str] = Counter()
    names = sorted(_walk(folder, left_out), key=natural_key)
    parts = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common())
    if not names:
        suffixes = " ".join(f"*{suffix}" for suffix in TEXT_SUFFIXES)
        raise TextError(
            f"there is no text file ({suffixes}) in {folder}, only {parts or 'nothing'}",
            fix="name the files",
        )
    if parts:
        notice(f"left out of {folder}: {parts}")
    return [TextFile(name, is_listed=True) for name in names]


def _walk(folder: str, left_out: Counter[str]) -> Iterator[str]:
    """Text files below `folder`; the reason for each other entry is counted in `left_out`."""
    for parent, folders, names in os.walk(folder, followlinks=False):
        kept = []
        for name in folders:
            reason = _folder_reason(Path(parent, name))
            if reason:
                left_out[reason] += 1
            else:
                kept.append(name)
        folders[:] = kept
        for name in names:
            path = os.path.join(parent, name)
            reason = _file_reason(Path(path))
            if reason:
                left_out[reason] += 1
            else:
                yield path


def _folder_reason(folder: Path) -> str | None:
    """Why a folder is left out; None if it is not."""
    if folder.name.startswith("."):
        return "hidden"
    if folder.name in PACKAGE_FOLDERS:
        return f"{folder.name} folder"
    if (folder / "pyvenv.cfg").is_file():
        return "virtual environment"
    return "training run" if _is_run(folder) else None


def _is_run(folder: Path) -> bool:
    has_records = (folder / "log.jsonl").is_file() or any(folder.glob("step-*"))
    return has_records and (folder / "run.json").is_file()


def _file_reason(path: Path) -> str | None:
    """Why a file is left out; None if it is not."""
    if path.name.startswith("."):
        return "hidden"
    if path.suffix.lower() not in TEXT_SUFFIXES:
        return f"{path.suffix.lower()} file" if path.suffix else "file without suffix"
    if not path.is_file():
        return "not a file"
    try:
        with open(path, "rb") as file:
            head = file.read(SIGNATURE_BYTES)
    except OSError:
        return None  # the reader reports it by name
    if is_json_lines(path.name) and _is_conversation(head):
        return "saved conversation"
    return container_type(head)


def _is_conversation(head: bytes) -> bool:
    """Whether a file begins with the header of a conversation that the chat saved."""
    try:
        header = json.loads(head.split(b"\n", 1)[0])
    except ValueError:
        return head.startswith(b'{"simplellm": "conversation"')
    return isinstance(header, dict) and header.get("simplellm") == "conversation"
