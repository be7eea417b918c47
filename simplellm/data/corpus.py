"""Files, folders, globs, JSON lines and standard input as one long text, read in pieces.

A corpus may be larger than memory: it is read once to be checked, counted and fingerprinted, and
then again, piece by piece, by whoever needs its characters.
"""

from __future__ import annotations

import codecs
import glob
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from simplellm.errors import TextError

TEXT_SUFFIXES = (".txt", ".md", ".jsonl")
STDIN_NAME = "-"
PIECE_CHARACTERS = 1 << 20
LONGEST_PIECE_CHARACTERS = 1 << 23  # a text without line ends is cut here, wherever that is
READ_BYTES = 1 << 20
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16, whose mark it starts with
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


class Piece(NamedTuple):
    """A part of a document; `ends_document` when the next piece belongs to another."""

    text: str
    ends_document: bool
    source: int = 0  # which of the corpus
    line: int = 1  # of that file, where the document begins


@dataclass(frozen=True)
class Corpus:
    """Documents in order. Characters are counted over all of them, without anything between them."""

    sources: tuple[Source, ...]
    characters: tuple[int, ...]  # of each source
    n_bytes: int  # of the text as UTF-8, whatever the files hold
    fingerprint: dict[str, str]  # SHA-256 of the bytes of each source, by its name

    @property
    def n_characters(self) -> int:
        return sum(self.characters)

    def pieces(self, start: int = 0, stop: int | None = None) -> Iterator[Piece]:
        """The characters `start` up to `stop`, in pieces of about a million, cut after line ends."""
        stop = self.n_characters if stop is None else stop
        position = 0
        for number, source in enumerate(self.sources):
            for text, ends_document, _, line in source.pieces():
                first, last = max(start - position, 0), min(stop - position, len(text))
                position += len(text)
                if first < last:
                    yield Piece(text[first:last], ends_document or position >= stop, number, line)
                if position >= stop:
                    return

    def text(self, start: int = 0, stop: int | None = None) -> str:
        return "".join(piece.text for piece in self.pieces(start, stop))


@dataclass(frozen=True)
class Source:
    """One file (or standard input, kept in a temporary file) and how its bytes are to be read."""

    name: str
    encoding: str = "utf-8"
    spool: BinaryIO | None = field(default=None, compare=False)

    def open(self) -> BinaryIO:
        if self.spool is not None:
            duplicate = os.fdopen(os.dup(self.spool.fileno()), "rb")
            duplicate.seek(0)
            return duplicate
        try:
            return open(self.name, "rb")
        except OSError as error:
            raise _cannot_read(self.name, error) from error

    def pieces(self) -> Iterator[Piece]:
        """The documents of this source: a .jsonl line each, or the whole file."""
        if self.name.endswith(".jsonl"):
            yield from self._json_lines()
        else:
            yield from self._whole()

    def _whole(self) -> Iterator[Piece]:
        buffer = ""
        for text in self._decoded():
            buffer += text
            while (cut := _safe_cut(buffer)) is not None:
                yield Piece(buffer[:cut], False)
                buffer = buffer[cut:]
        yield Piece(buffer, True)

    def _json_lines(self) -> Iterator[Piece]:
        for number, line in enumerate(_lines(self._decoded()), 1):
            if not line.strip():
                continue
            try:
                text = json.loads(line)["text"]
            except (ValueError, KeyError, TypeError, RecursionError):
                text = None
            if not isinstance(text, str):
                raise TextError(
                    f'{self.name} line {number} is not a JSON object with a "text"',
                    fix='write {"text": "..."} on each line',
                )
            if text:
                yield Piece(text, True, line=number)

    def _decoded(self) -> Iterator[str]:
        """The text in parts of any length, line ends as \\n; TextError with the byte offset where it is no text."""
        newlines = io.IncrementalNewlineDecoder(None, translate=True)
        with self.open() as file:
            encoding, offset, block = self._begin(file)
            decoder = codecs.getincrementaldecoder(encoding)("strict")
            while True:
                if (nul := _nul_in(block, encoding)) >= 0:
                    raise TextError(
                        f"{self.name} is not text: byte {offset + nul} is NUL",
                        fix="name a text file (UTF-8)",
                    )
                text = self._decode(decoder, block, encoding, offset)
                yield newlines.decode(text, final=not block)
                if not block:
                    return
                offset += len(block)
                block = _read(file, self.name, READ_BYTES)

    def _begin(self, file: BinaryIO) -> tuple[str, int, bytes]:
        """The encoding (a byte order mark tells it), the offset behind the mark, and the first bytes after it."""
        head = _read(file, self.name, 4)
        for mark, name in BYTE_ORDER_MARKS.items():
            if head.startswith(mark):
                return name, len(mark), head[len(mark) :] or _read(file, self.name, READ_BYTES)
        return self.encoding, 0, head

    def _decode(
        self, decoder: codecs.IncrementalDecoder, block: bytes, encoding: str, offset: int
    ) -> str:
        pending = len(decoder.getstate()[0])  # bytes of a character begun in the block before
        try:
            return decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            if not block:
                raise TextError(
                    f"{self.name} ends in the middle of a character, at byte {offset - pending} ({encoding})",
                    fix="check that it is whole, or pass --encoding with its own, such as cp949, euc-kr or latin-1",
                ) from error
            where = f"byte {offset - pending + error.start} (0x{error.object[error.start]:02x})"
        except UnicodeError:
            where = "the text"
        raise TextError(
            f"{self.name}: {where} is not {encoding}",
            fix="convert it to UTF-8, or pass --encoding with its own, such as cp949, euc-kr or latin-1",
        )


def read_corpus(
    texts: Sequence[str], encoding: str = "utf-8", stdin: BinaryIO | None = None
) -> Corpus:
    """Check, count and fingerprint the corpus of `texts` (files, folders, globs, `-`). TextError when there is none."""
    _check_encoding(encoding)
    sources = tuple(_sources(texts, encoding, stdin))
    characters = [0] * len(sources)
    n_bytes = 0
    has_words = False
    for number, source in enumerate(sources):
        for text, *_ in source.pieces():
            characters[number] += len(text)
            n_bytes += len(text.encode("utf-8", "replace"))
            has_words = has_words or not text.isspace() and bool(text)
    if not has_words:
        names = ", ".join(source.name for source in sources[:3])
        raise TextError(f"there is no text in {names}", fix="name a file with some text in it")
    return Corpus(
        sources, tuple(characters), n_bytes, {source.name: _sha256(source) for source in sources}
    )


def _check_encoding(name: str) -> None:
    """TextError unless `name` is an encoding of text: Python knows others, such as hex and zlib."""
    try:
        is_text = codecs.lookup(name)._is_text_encoding
        codecs.getincrementaldecoder(name)("strict").decode(b"", final=False)
    except (LookupError, ValueError, TypeError):
        is_text = False
    if not is_text:
        raise TextError(
            f"no encoding of text is called {name!r}", fix="use utf-8, cp949, euc-kr, latin-1, ..."
        )


def _cannot_read(name: str, error: OSError) -> TextError:
    return TextError(
        f"cannot read {name}: {error.strerror or error}",
        fix="name a text file that is there and readable",
    )


def _read(file: BinaryIO, name: str, size: int) -> bytes:
    try:
        return file.read(size)
    except OSError as error:
        raise _cannot_read(name, error) from error


def _sources(texts: Iterable[str], encoding: str, stdin: BinaryIO | None) -> Iterator[Source]:
    for text in texts:
        if text == STDIN_NAME:
            yield Source(STDIN_NAME, encoding, spool(stdin))
        elif _is_path(text) and Path(text).is_dir():
            files = sorted(
                str(path)
                for path in Path(text).rglob("*")
                if path.suffix in TEXT_SUFFIXES and path.is_file()
            )
            if not files:
                raise TextError(
                    f"there is no *.txt, *.md or *.jsonl in {text}", fix="name the files themselves"
                )
            yield from (Source(name, encoding) for name in files)
        elif _is_path(text):
            yield _regular(text, encoding)
        elif glob.has_magic(text):
            matches = sorted(
                name for name in glob.glob(text, recursive=True) if Path(name).is_file()
            )
            if not matches:
                raise TextError(f"no file matches {text}", fix="check the pattern, and quote it")
            yield from (Source(name, encoding) for name in matches)
        else:
            raise TextError(
                f"there is no file {text[:200] or repr(text)}",
                fix="check the path; a folder, a glob or - (stdin) will do too",
            )


def _is_path(text: str) -> bool:
    """Whether there is such a file or folder; a name no file can have, or none at all, is none."""
    try:
        return bool(text) and Path(text).exists()
    except (OSError, ValueError):
        return False


def _regular(name: str, encoding: str) -> Source:
    """A file can be read twice; a named pipe cannot, so it is kept in a temporary file first."""
    if Path(name).is_file():
        return Source(name, encoding)
    if not Path(name).is_fifo():  # the zeros of /dev/zero never end
        raise TextError(
            f"{name} is a device, not a text", fix="name a text file, or - for standard input"
        )
    with Source(name, encoding).open() as stream:
        return Source(name, encoding, spool(stream))


def spool(stream: BinaryIO | None) -> BinaryIO:
    """A stream that can be read only once, as a file."""
    if stream is None:
        raise TextError("there is no standard input to read", fix="name a file instead of -")
    file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the corpus)
    while block := _read(stream, "standard input", READ_BYTES):
        file.write(block)
    file.flush()
    return file


def _sha256(source: Source) -> str:
    digest = hashlib.sha256()
    with source.open() as file:
        for block in iter(partial(file.read, READ_BYTES), b""):
            digest.update(block)
    return digest.hexdigest()


def _nul_in(block: bytes, encoding: str) -> int:
    """Offset of the first NUL byte, -1 where there is none or where the encoding has them by nature."""
    return (
        -1
        if encoding.replace("_", "-").lower().startswith(("utf-16", "utf-32"))
        else block.find(b"\0")
    )


def _safe_cut(buffer: str) -> int | None:
    """Where a long buffer may be cut without changing its tokens: between a line end and a word.

    None while the buffer is short, or has no such place and may still grow.
    """
    if len(buffer) <= PIECE_CHARACTERS:
        return None
    cut = buffer.rfind("\n", 0, len(buffer) - 1) + 1
    while cut > 0 and buffer[cut].isspace():
        cut = buffer.rfind("\n", 0, cut - 1) + 1
    if cut > 0:
        return cut
    return LONGEST_PIECE_CHARACTERS if len(buffer) > LONGEST_PIECE_CHARACTERS else None


def _lines(parts: Iterable[str]) -> Iterator[str]:
    rest = ""
    for part in parts:
        *whole, rest = (rest + part).split("\n")
        yield from whole
    yield rest
