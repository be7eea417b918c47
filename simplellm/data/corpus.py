"""Corpora: text from files, folders, globs, JSON lines and standard input, read in chunks.

A corpus may be larger than memory. `read_corpus` reads it once to check, count and hash it; later
readers stream its chunks.
"""

from __future__ import annotations

import codecs
import glob
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from simplellm.data.utf8 import utf8_length
from simplellm.errors import TextError
from simplellm.storage.files import sha256_of_stream

TEXT_SUFFIXES = (".txt", ".md", ".jsonl")
STDIN_NAME = "-"
CHUNK_CHARACTERS = 1 << 20
MAX_CHUNK_CHARACTERS = 1 << 23  # a text without line ends is cut here, even inside a word
READ_BYTES = 1 << 20
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16, whose mark is a prefix of it
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
OTHER_ENCODING = "pass its --encoding, such as cp949, euc-kr or latin-1"


class TextChunk(NamedTuple):
    """A part of a document."""

    text: str
    ends_document: bool  # the next chunk belongs to another document
    source: int = 0  # index of the source in the corpus
    line: int = 1  # line of the file where the document begins


@dataclass(frozen=True)
class Corpus:
    """Documents in order. Character positions count over all of them, without separators."""

    sources: tuple[Source, ...]
    characters: tuple[int, ...]  # of each source
    n_bytes: int  # of the text as UTF-8, for any encoding of the files
    fingerprint: dict[str, str]  # source name -> SHA-256 of its bytes

    @property
    def n_characters(self) -> int:
        return sum(self.characters)

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[TextChunk]:
        """Characters `start` to `stop` in chunks of about a million, cut after line ends."""
        stop = self.n_characters if stop is None else stop
        position = 0
        for number, source in enumerate(self.sources):
            for text, ends_document, _, line in source.chunks():
                first, last = max(start - position, 0), min(stop - position, len(text))
                position += len(text)
                if first < last:
                    ends_document = ends_document or position >= stop
                    yield TextChunk(text[first:last], ends_document, number, line)
                if position >= stop:
                    return

    def text(self, start: int = 0, stop: int | None = None) -> str:
        return "".join(chunk.text for chunk in self.chunks(start, stop))


@dataclass(frozen=True)
class Source:
    """One file and its encoding. A stream (`spool`) has been copied to a temporary file."""

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

    def chunks(self) -> Iterator[TextChunk]:
        """The documents of this source: one per line of a .jsonl file, else the whole file."""
        if self.name.endswith(".jsonl"):
            yield from self._json_lines()
        else:
            yield from self._plain_text()

    def _plain_text(self) -> Iterator[TextChunk]:
        buffer = ""
        for text in self._decoded():
            buffer += text
            while (cut := _safe_cut(buffer)) is not None:
                yield TextChunk(buffer[:cut], False)
                buffer = buffer[cut:]
        yield TextChunk(buffer, True)

    def _json_lines(self) -> Iterator[TextChunk]:
        for number, line in enumerate(_lines(self._decoded()), 1):
            if not line.strip():
                continue
            try:
                text = json.loads(line)["text"]
            except (ValueError, KeyError, TypeError, RecursionError):
                text = None
            if not isinstance(text, str):
                raise TextError(
                    f'{self.name} line {number} is not a JSON object with a string "text"',
                    fix='write {"text": "..."} on each line',
                )
            if text:
                yield TextChunk(text, True, line=number)

    def _decoded(self) -> Iterator[str]:
        """The text in parts of any length, with line ends as \\n.

        TextError with the byte offset if the bytes are not text in this encoding.
        """
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
        """Encoding (by the byte order mark if there is one), offset after the mark, first bytes."""
        head = _read(file, self.name, 4)
        for mark, name in BYTE_ORDER_MARKS.items():
            if head.startswith(mark):
                return name, len(mark), head[len(mark) :] or _read(file, self.name, READ_BYTES)
        return self.encoding, 0, head

    def _decode(
        self, decoder: codecs.IncrementalDecoder, block: bytes, encoding: str, offset: int
    ) -> str:
        pending = len(decoder.getstate()[0])  # bytes of a character that began in the last block
        try:
            return decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            if not block:
                raise TextError(
                    f"{self.name} ends in the middle of a character, "
                    f"at byte {offset - pending} ({encoding})",
                    fix=f"check that the file is complete, or {OTHER_ENCODING}",
                ) from error
            where = f"byte {offset - pending + error.start} (0x{error.object[error.start]:02x})"
        except UnicodeError:
            where = "the text"
        raise TextError(
            f"{self.name}: {where} is not {encoding}",
            fix=f"convert it to UTF-8, or {OTHER_ENCODING}",
        )


def read_corpus(
    texts: Sequence[str], encoding: str = "utf-8", stdin: BinaryIO | None = None
) -> Corpus:
    """Check, count and hash the texts (files, folders, globs, `-`); TextError if there is none."""
    _check_encoding(encoding)
    sources = tuple(_sources(texts, encoding, stdin))
    characters = [0] * len(sources)
    n_bytes = 0
    has_words = False
    for number, source in enumerate(sources):
        for text, *_ in source.chunks():
            characters[number] += len(text)
            n_bytes += utf8_length(text)
            has_words = has_words or bool(text.strip())
    if not has_words:
        names = ", ".join(source.name for source in sources[:3])
        raise TextError(f"there is no text in {names}", fix="name a file that contains text")
    return Corpus(
        sources, tuple(characters), n_bytes, {source.name: _sha256(source) for source in sources}
    )


def _check_encoding(name: str) -> None:
    """TextError unless `name` is a text encoding; Python also has others, such as hex and zlib."""
    try:
        is_text = codecs.lookup(name)._is_text_encoding
        codecs.getincrementaldecoder(name)("strict").decode(b"", final=False)
    except (LookupError, ValueError, TypeError):
        is_text = False
    if not is_text:
        raise TextError(
            f"{name!r} is not a text encoding", fix="use utf-8, cp949, euc-kr, latin-1, ..."
        )


def _cannot_read(name: str, error: OSError) -> TextError:
    return TextError(
        f"cannot read {name}: {error.strerror or error}",
        fix="name a text file that exists and can be read",
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
                    f"there is no *.txt, *.md or *.jsonl in {text}", fix="name the files"
                )
            yield from (Source(name, encoding) for name in files)
        elif _is_path(text):
            yield _file_or_pipe(text, encoding)
        elif glob.has_magic(text):
            matches = sorted(
                name for name in glob.glob(text, recursive=True) if Path(name).is_file()
            )
            if not matches:
                raise TextError(f"no file matches {text}", fix="check the pattern and quote it")
            yield from (Source(name, encoding) for name in matches)
        else:
            raise TextError(
                f"there is no file {text[:200] or repr(text)}",
                fix="check the path; it can also be a folder, a glob or - (stdin)",
            )


def _is_path(text: str) -> bool:
    """Whether the file or folder exists; False for invalid and empty names."""
    try:
        return bool(text) and Path(text).exists()
    except (OSError, ValueError):
        return False


def _file_or_pipe(name: str, encoding: str) -> Source:
    """A source for a file or a named pipe, which is copied because it can be read only once."""
    if Path(name).is_file():
        return Source(name, encoding)
    if not Path(name).is_fifo():  # /dev/zero, for example, never ends
        raise TextError(
            f"{name} is a device, not a text", fix="name a text file, or - for standard input"
        )
    with Source(name, encoding).open() as stream:
        return Source(name, encoding, spool(stream))


def spool(stream: BinaryIO | None) -> BinaryIO:
    """Copy a stream, which can be read only once, to a temporary file."""
    if stream is None:
        raise TextError("there is no standard input to read", fix="name a file instead of -")
    file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the corpus exists)
    while block := _read(stream, "standard input", READ_BYTES):
        file.write(block)
    file.flush()
    return file


def _sha256(source: Source) -> str:
    with source.open() as file:
        return sha256_of_stream(file)


def _nul_in(block: bytes, encoding: str) -> int:
    """Offset of the first NUL byte; -1 if there is none or the encoding uses NUL bytes."""
    if encoding.replace("_", "-").lower().startswith(("utf-16", "utf-32")):
        return -1
    return block.find(b"\0")


def _safe_cut(buffer: str) -> int | None:
    """Position where a long buffer can be cut without a change of its tokens.

    That is between a line end and a word. None while the buffer is short, or if it has no such
    position and may still grow.
    """
    if len(buffer) <= CHUNK_CHARACTERS:
        return None
    cut = buffer.rfind("\n", 0, len(buffer) - 1) + 1
    while cut > 0 and buffer[cut].isspace():
        cut = buffer.rfind("\n", 0, cut - 1) + 1
    if cut > 0:
        return cut
    return MAX_CHUNK_CHARACTERS if len(buffer) > MAX_CHUNK_CHARACTERS else None


def _lines(parts: Iterable[str]) -> Iterator[str]:
    """The lines of a text that comes in parts, without line ends."""
    rest = ""
    for part in parts:
        *lines, rest = (rest + part).split("\n")
        yield from lines
    yield rest
