"""Corpora: documents of files, folders, globs, JSON lines and standard input, read in chunks.

A corpus may be larger than memory. `read_corpus` reads it once to check, count and hash it; later
readers stream its chunks. No document occurs twice: a second copy of a text, one part in the
training text and one in the validation text, would make the validation loss meaningless.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from simplellm.data.shared_passages import PassageIndex, PassageSearch
from simplellm.data.source import Source, TextChunk, TextFormat, report_bad_lines, spool
from simplellm.data.text_files import STDIN_NAME, TextFile, find_text_files, shown_name
from simplellm.data.utf8 import utf8_length
from simplellm.errors import Notice, TextError

DIGEST_BYTES = 16
MAX_NAMES_SHOWN = 3


@dataclass(frozen=True)
class Corpus:
    """Documents in order. Character positions count over all of them, without separators.

    copied_share: of its last part that is validation text, the share that is also in the rest.
    """

    sources: tuple[Source, ...]
    characters: tuple[int, ...]  # of each source
    n_bytes: int  # of the text as UTF-8, for any encoding of the files
    fingerprint: dict[str, str]  # source name -> SHA-256 of its bytes
    copied_share: float = 0.0

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


def read_corpus(
    texts: Sequence[str],
    format: TextFormat | None = None,
    stdin: BinaryIO | None = None,
    notice: Notice = lambda text: None,
    validation: Corpus | None = None,
    files: Sequence[TextFile] | None = None,
) -> Corpus:
    """Check, count and hash the texts (files, folders, globs, `-`); TextError if there is none.

    files: those of `texts` that are read; None is all.

    Documents that occur a second time and what `validation` contains are left out; a notice says
    so, and names files of a folder that cannot be read.
    """
    format = format or TextFormat()
    excluded: set[bytes] = set()
    shared = None
    if validation is not None and not format.keeps_duplicates:
        excluded = document_digests(validation)
    if validation is not None and not format.keeps_shared:
        shared = PassageIndex(chunk.text for chunk in validation.chunks())
    reader = _Reader(format, notice, set(excluded), excluded, shared)
    for file in find_text_files(texts, notice) if files is None else files:
        reader.read(file, stdin)
    return reader.corpus(texts)


def document_digests(corpus: Corpus) -> set[bytes]:
    """The digests of its documents."""
    reader = _Reader(TextFormat(), lambda text: None, set())
    for source in corpus.sources:
        reader.read_source(source)
    return reader.digests


@dataclass
class _Reader:
    """Reads sources one by one and keeps those with new documents."""

    format: TextFormat
    notice: Notice
    digests: set[bytes]  # of the documents so far, and of the excluded ones
    excluded: Collection[bytes] = ()
    shared: PassageIndex | None = None  # of the validation text
    sources: list[Source] = field(default_factory=list)
    characters: list[int] = field(default_factory=list)
    n_bytes: int = 0
    has_words: bool = False
    n_duplicates: int = 0  # JSON lines left out

    def read(self, file: TextFile, stdin: BinaryIO | None) -> None:
        """Read a file; one that a folder listed is left out, with a notice, if it is unreadable."""
        try:
            self.read_source(open_source(file.name, self.format, stdin))
        except TextError as error:
            if not file.is_listed:
                raise
            self.notice(f"left out: {error}")

    def read_source(self, source: Source) -> None:
        if source.is_json_lines:
            self._read_json_lines(source)
            return
        search = PassageSearch(self.shared) if self.shared else None
        digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
        blank = b""  # white space that may end the text: copies often differ in the last line end
        n_characters = n_bytes = 0
        has_words = False
        for chunk in source.chunks():
            encoded = chunk.text.encode("utf-8", "replace")
            content = encoded.rstrip()
            if content:
                digest.update(blank + content)
                blank = b""
            blank += encoded[len(content) :]
            n_characters += len(chunk.text)
            n_bytes += len(encoded)
            has_words = has_words or bool(chunk.text.strip())
            if search:
                search.add(chunk.text, chunk.ends_document)
        if has_words and digest.digest() in self.excluded:
            self.notice(f"left out of the training text: {source.name} is the validation text")
            return
        if has_words and self._is_known(digest.digest()):
            self.notice(f"left out: {source.name} is a copy of another file")
            return
        if search and search.passages():
            self._keep_rest(source, search)
        else:
            self._keep(source, n_characters, n_bytes, has_words)

    def _read_json_lines(self, source: Source) -> None:
        n_lines = n_characters = n_bytes = 0
        skipped: list[int] = []
        bad: list[TextError] = []
        search = PassageSearch(self.shared) if self.shared else None
        for number, record in source.records():
            n_lines += 1
            if isinstance(record, TextError):
                bad.append(record)
                skipped.append(number)
                if not self.format.max_bad_share:
                    raise record
                continue
            encoded = record.encode("utf-8", "replace")
            if record and self._is_known(
                hashlib.blake2b(encoded.rstrip(), digest_size=DIGEST_BYTES).digest()
            ):
                skipped.append(number)
                self.n_duplicates += 1
                continue
            n_characters += len(record)
            n_bytes += len(encoded)
            if search:
                search.add(record, True)
        report_bad_lines(source.name, bad, n_lines, self.format, self.notice)
        if n_lines and len(skipped) == n_lines:
            self.notice(f"left out: {source.name} has no new text")
            return
        used = replace(source, skipped_lines=source.skipped_lines.union(skipped))
        if search and search.passages():
            self._keep_rest(used, search)
        else:
            self._keep(used, n_characters, n_bytes, n_characters > 0)

    def _keep_rest(self, source: Source, search: PassageSearch) -> None:
        """Keep what the validation text does not contain."""
        passages = search.passages()
        n_left_out = sum(stop - start for start, stop in passages)
        self.notice(
            f"left out of the training text: {n_left_out:,} characters of {source.name} "
            "that are also in the validation text"
        )
        rest = replace(source, left_out=passages)
        n_characters = n_bytes = 0
        has_words = False
        for chunk in rest.chunks():
            n_characters += len(chunk.text)
            n_bytes += utf8_length(chunk.text)
            has_words = has_words or bool(chunk.text.strip())
        if has_words:
            self._keep(rest, n_characters, n_bytes, has_words)

    def _is_known(self, digest: bytes) -> bool:
        """Whether a document with this digest was there before; it is from now on."""
        if self.format.keeps_duplicates:  # a set of all digests would grow with the text
            return False
        is_known = digest in self.digests
        self.digests.add(digest)
        return is_known

    def _keep(self, source: Source, n_characters: int, n_bytes: int, has_words: bool) -> None:
        self.sources.append(source)
        self.characters.append(n_characters)
        self.n_bytes += n_bytes
        self.has_words = self.has_words or has_words

    def corpus(self, texts: Sequence[str]) -> Corpus:
        names = ", ".join(shown_name(str(text)) for text in texts[:MAX_NAMES_SHOWN])
        if not self.has_words and (self.digests or self.shared):
            raise TextError(
                f"{names} has no text but that of the validation text",
                fix="name another --val-data, or leave it out",
            )
        if not self.has_words:
            raise TextError(f"there is no text in {names}", fix="name a file that contains text")
        if self.n_duplicates:
            self.notice(f"left out: {self.n_duplicates} documents that occur more than once")
        digests = {source.name: source.sha256() for source in self.sources}
        return Corpus(tuple(self.sources), tuple(self.characters), self.n_bytes, digests)


def open_source(name: str, format: TextFormat, stdin: BinaryIO | None) -> Source:
    """A source for a file, for standard input, or for a named pipe, which is copied first."""
    if name == STDIN_NAME:
        return Source(name, format, spool(stdin))
    if Path(name).is_file():
        return Source(name, format)
    if not Path(name).is_fifo():  # /dev/zero, for example, never ends
        raise TextError(
            f"{name} is a device, not a text", fix="name a text file, or - for standard input"
        )
    with Source(name, format).open() as stream:
        return Source(name, format, spool(stream))
