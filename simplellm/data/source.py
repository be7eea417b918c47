"""One text file: its bytes decoded, its JSON lines parsed, in chunks of bounded size."""

from __future__ import annotations

import codecs
import io
import itertools
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

from simplellm.data.encodings import (
    BYTE_ORDER_MARKS,
    has_nul_bytes,
    likely_encoding,
    standard_name,
)
from simplellm.data.shared_passages import Passage, without
from simplellm.data.text_files import (
    SIGNATURE_BYTES,
    container_error,
    container_type,
    is_json_lines,
)
from simplellm.errors import Notice, TextError
from simplellm.storage.files import sha256_of_stream
from simplellm.storage.json_files import JsonObject

CHUNK_CHARACTERS = 1 << 20
MAX_CHUNK_CHARACTERS = 1 << 23  # a text without line ends is cut here, even inside a word
READ_BYTES = 1 << 20
MAX_KEYS_SHOWN = 5
# The last position between a line end and a word. `.*` is greedy, so the search goes backwards.
LAST_CUT = re.compile(r".*\n(?=\S)", re.DOTALL)


class TextChunk(NamedTuple):
    """A part of a document."""

    text: str
    ends_document: bool  # the next chunk belongs to another document
    source: int = 0  # index of the source in the corpus
    line: int = 1  # line of the file where the document begins


@dataclass(frozen=True)
class TextFormat:
    """How files are read.

    encoding: of files without a byte order mark. text_key: key of the text in JSON lines.
    max_bad_share: share of the JSON lines that may be unusable and are skipped.
    keeps_duplicates: equal documents all count, as in runs of early versions.
    keeps_shared: passages of the validation text are kept in the training text, as in these.
    keeps_copies: copies inside a text are kept, as in these.
    """

    encoding: str = "utf-8"
    text_key: str = "text"
    max_bad_share: float = 0.0
    keeps_duplicates: bool = False
    keeps_shared: bool = False
    keeps_copies: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "encoding", standard_name(self.encoding))

    def to_facts(self) -> JsonObject:
        """The keys of run.json."""
        return {
            "encoding": self.encoding,
            "text_key": self.text_key,
            "max_bad_share": self.max_bad_share,
            "keeps_duplicates": self.keeps_duplicates,
            "keeps_shared": self.keeps_shared,
            "keeps_copies": self.keeps_copies,
        }

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> TextFormat:
        """The inverse of `to_facts`; early versions recorded the encoding only."""
        return cls(
            str(facts["encoding"]),
            str(facts.get("text_key", cls.text_key)),
            float(facts.get("max_bad_share", cls.max_bad_share)),
            bool(facts.get("keeps_duplicates", True)),
            bool(facts.get("keeps_shared", True)),
            bool(facts.get("keeps_copies", True)),
        )


@dataclass(frozen=True)
class Source:
    """One file and how it is read. A stream (`spool`) has been copied to a temporary file.

    skipped_lines: JSON lines that are not used, bad ones and duplicates. left_out: passages of the
    joined documents that are not used.
    """

    name: str
    format: TextFormat = field(default_factory=TextFormat)
    spool: BinaryIO | None = field(default=None, compare=False)
    skipped_lines: frozenset[int] = frozenset()
    left_out: tuple[Passage, ...] = ()

    def open(self) -> BinaryIO:
        if self.spool is not None:
            duplicate = os.fdopen(os.dup(self.spool.fileno()), "rb")
            duplicate.seek(0)
            return duplicate
        try:
            return open(self.name, "rb")
        except OSError as error:
            raise cannot_read(self.name, error) from error

    @property
    def is_json_lines(self) -> bool:
        return is_json_lines(self.name)

    def sha256(self) -> str:
        with self.open() as file:
            return sha256_of_stream(file)

    def chunks(self) -> Iterator[TextChunk]:
        """The documents of this source: one per line of a .jsonl file, else the whole file.

        What remains on the two sides of a passage that is left out are two documents.
        """
        if not self.left_out:
            yield from self._all_chunks()
            return
        chunks, copies = itertools.tee(self._all_chunks())
        remains = without((chunk.text for chunk in copies), self.left_out)
        line = 1  # of the character `counted`
        for chunk, (ranges, is_cut) in zip(chunks, remains, strict=True):
            counted = 0
            for start, stop in ranges:
                ends_document = stop < len(chunk.text) or is_cut or chunk.ends_document
                line += chunk.text.count("\n", counted, start)
                counted = start
                begin = chunk.line if self.is_json_lines else line
                yield TextChunk(chunk.text[start:stop], ends_document, line=begin)
            line += chunk.text.count("\n", counted)

    def _all_chunks(self) -> Iterator[TextChunk]:
        if not self.is_json_lines:
            yield from self._plain_text()
            return
        for number, record in self.records():
            if isinstance(record, TextError):
                raise record
            if record:
                yield TextChunk(record, True, line=number)

    def records(self) -> Iterator[tuple[int, str | TextError]]:
        """Number and text of each used JSON line, or the error of an unusable one."""
        for number, line in numbered_lines(self.decoded()):
            if number in self.skipped_lines:
                continue
            record = self._text_of(number, line)
            del line  # a long one is not kept while its text is used
            yield number, record

    def _text_of(self, number: int, line: str) -> str | TextError:
        key = self.format.text_key
        where = f"{self.name} line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            return TextError(
                f"{where} is not JSON", fix=f'write {{"{key}": "..."}} on each line, or --skip-bad'
            )
        if isinstance(record, dict) and isinstance(record.get(key), str):
            return record[key]
        return _missing_key(where, key, record)

    def _plain_text(self) -> Iterator[TextChunk]:
        buffer = ""
        searched = 0  # characters of the buffer that have no place to cut
        for text in self.decoded():
            buffer += text
            while (cut := safe_cut(buffer, searched)) is not None:
                yield TextChunk(buffer[:cut], False)
                buffer = buffer[cut:]
                searched = 0
            searched = max(len(buffer) - 1, 0) if len(buffer) > CHUNK_CHARACTERS else 0
        yield TextChunk(buffer, True)

    def decoded(self) -> Iterator[str]:
        """The text in parts of any length, with line ends as \\n.

        TextError, with the byte offset and the likely cause, if the bytes are not text.
        """
        newlines = io.IncrementalNewlineDecoder(None, translate=True)
        with self.open() as file:
            encoding, offset, block = self._begin(file)
            decoder = codecs.getincrementaldecoder(encoding)("strict")
            while True:
                if not has_nul_bytes(encoding) and (nul := block.find(b"\0")) >= 0:
                    raise self._not_text(block, offset + nul)
                text = self._decode(decoder, block, encoding, offset)
                yield newlines.decode(text, final=not block)
                if not block:
                    return
                offset += len(block)
                block = read_block(file, self.name, READ_BYTES)

    def _begin(self, file: BinaryIO) -> tuple[str, int, bytes]:
        """Encoding (by the byte order mark if there is one), offset after the mark, first bytes."""
        head = read_block(file, self.name, SIGNATURE_BYTES)
        for mark, name in BYTE_ORDER_MARKS.items():
            if head.startswith(mark):
                rest = head[len(mark) :] or read_block(file, self.name, READ_BYTES)
                return name, len(mark), rest
        kind = container_type(head)
        if kind is not None:
            raise container_error(self.name, kind)
        return self.format.encoding, 0, head

    def _not_text(self, block: bytes, offset: int) -> TextError:
        found = likely_encoding(block)
        if found is not None and has_nul_bytes(found):
            return TextError(f"{self.name} looks like {found}", fix=f"--encoding {found}")
        return TextError(
            f"{self.name} is not text: byte {offset} is NUL", fix="name a text file (UTF-8)"
        )

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
                    fix="check that the file is complete",
                ) from error
            where = f"byte {offset - pending + error.start} (0x{error.object[error.start]:02x})"
        except UnicodeError:
            where = "the text"
        raise TextError(f"{self.name}: {where} is not {encoding}", fix=_advice(block, encoding))


def spool(stream: BinaryIO | None) -> BinaryIO:
    """Copy a stream, which can be read only once, to a temporary file."""
    if stream is None:
        raise TextError("there is no standard input to read", fix="name a file instead of -")
    file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the corpus exists)
    while block := read_block(stream, "standard input", READ_BYTES):
        file.write(block)
    file.flush()
    return file


def cannot_read(name: str, error: OSError) -> TextError:
    return TextError(
        f"cannot read {name}: {error.strerror or error}",
        fix="name a text file that exists and can be read",
    )


def read_block(file: BinaryIO, name: str, size: int) -> bytes:
    try:
        return file.read(size)
    except OSError as error:
        raise cannot_read(name, error) from error


def report_bad_lines(
    name: str, bad: Sequence[TextError], n_lines: int, format: TextFormat, notice: Notice
) -> None:
    """Say how many lines of a file are left out; TextError if that is too large a share."""
    if not bad:
        return
    what = f"{name}: {len(bad)} of {n_lines} lines are unusable"
    if len(bad) / n_lines > format.max_bad_share:
        raise TextError(
            f"{what}, more than {format.max_bad_share:.0%}; the first: {bad[0]}",
            fix="correct the file, or allow more with --max-bad-share",
        )
    notice(f"{what} and left out; the first: {bad[0]}")


def safe_cut(buffer: str, start: int = 0) -> int | None:
    """Last position from `start` on where a long buffer can be cut without a change of its tokens.

    That is between a line end and a word. None while the buffer is short, or if it has no such
    position and may still grow.
    """
    if len(buffer) <= CHUNK_CHARACTERS:
        return None
    if (match := LAST_CUT.match(buffer, start)) is not None:
        return match.end()
    return MAX_CHUNK_CHARACTERS if len(buffer) > MAX_CHUNK_CHARACTERS else None


def _advice(block: bytes, encoding: str) -> str:
    """What to do about bytes that are not `encoding`, by what they look like."""
    found = likely_encoding(block)
    if found == "utf-8" and encoding == "utf-8":
        return "it is UTF-8 with damaged characters: correct them in an editor"
    if found is not None and found != encoding:
        return f"it looks like {found}: use --encoding {found}"
    return "convert it to UTF-8, or name its encoding with --encoding"


def _missing_key(where: str, key: str, record: object) -> TextError:
    """The error of a JSON line without the key; it names a key that may be meant."""
    if not isinstance(record, dict):
        what = f"{where} is not a JSON object"
        return TextError(what, fix=f'write {{"{key}": "..."}} on each line, or --skip-bad')
    keys = ", ".join(map(repr, list(record)[:MAX_KEYS_SHOWN])) or "none"
    more = ", ..." if len(record) > MAX_KEYS_SHOWN else ""
    texts = {name: value for name, value in record.items() if isinstance(value, str)}
    longest = max(texts, key=lambda name: len(texts[name]), default=None)
    fix = f"--text-key {longest}" if longest is not None else "name a file of texts"
    return TextError(f'{where} has no string "{key}"; its keys: {keys}{more}', fix=fix)


def numbered_lines(parts: Iterable[str]) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, without line ends, and their numbers. Parts are of any size."""
    begun: list[str] = []  # parts of the line that has not ended yet
    number = 1  # of that line
    for part in parts:
        if part.isspace() and not any(begun):  # a file may have millions of blank lines
            number += part.count("\n")
            continue
        first, *others = part.split("\n")
        begun.append(first)
        if others:
            lines = [*reversed(others[:-1]), "".join(begun)]
            begun = [others[-1]]
            while lines:  # a long line is not kept here while it is used
                if lines[-1].strip():
                    yield number, lines.pop()
                else:
                    lines.pop()
                number += 1
    if (last := "".join(begun)).strip():
        yield number, last
