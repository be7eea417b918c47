"""Prepared corpora: the tokenizer and the token ids of a text, cached on disk.

A corpus is encoded once into flat files of token ids, which are memory-mapped, so that it may be
larger than memory. The folder name is a hash of everything that determines the ids.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simplellm.data.corpus import Corpus
from simplellm.data.prepared_marks import MARK_FILES, PreparedMarks, read_marks
from simplellm.data.source import Source, TextChunk, TextFormat
from simplellm.data.tokenizer import Tokenizer
from simplellm.data.utf8 import utf8_length
from simplellm.errors import Notice, TextError
from simplellm.storage.files import digests_of, has_digests, new_folder, write_file
from simplellm.storage.json_files import json_bytes

PREPARED_FOLDER = ".prepared"  # beside the run folders
PREPARED_VERSION = 4
PREPARED_FILES = ("tokenizer.json", "train.bin", "val.bin", "documents.bin")
DOCUMENT_TYPE = np.dtype("<u4")
NOTICE_BYTES = 25_000_000  # interval of progress notices
TOKENIZER_SAMPLE_CHARACTERS = 1 << 25  # more text does not change merges of 1-2k tokens (guess)


@dataclass(frozen=True)
class Prepared:
    """Token ids of the training and the validation text."""

    folder: Path
    tokenizer: Tokenizer
    train_ids: np.ndarray  # memory-mapped, uint16 or uint32; Tokenizer.document_start before each
    val_ids: np.ndarray
    train_bytes: int  # UTF-8 bytes of the encoded text
    val_bytes: int
    documents: np.ndarray  # (D, 2) uint32: source index and first line of each training document
    marks: PreparedMarks | None = None  # where there are conversations

    def train_documents(self) -> list[str]:
        """The training documents as text; they must fit into memory."""
        if self.marks is None:
            return self._documents(self.train_ids)
        texts = self._documents(self.train_ids[: self.marks.n_train_text])
        return [*texts, *self.marks.train_conversations(self.tokenizer)]

    def val_documents(self) -> list[str]:
        """The validation documents as text; they must fit into memory."""
        if self.marks is None:
            return self._documents(self.val_ids)
        texts = self._documents(self.val_ids[: self.marks.n_val_text])
        return [*texts, *self.marks.val_conversations(self.tokenizer)]

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that end a reply, where there are conversations."""
        return self.marks.end_ids() if self.marks else ()

    @property
    def scored(self) -> tuple[int, int]:
        """Tokens of the validation data that are scored, and the bytes of their text."""
        if self.marks is None:
            return len(self.val_ids) - 1, self.val_bytes
        return self.marks.val.n_learned, self.marks.val.learned_bytes(self.tokenizer)

    def _documents(self, ids: np.ndarray) -> list[str]:
        begins = np.flatnonzero(ids == self.tokenizer.document_mark)
        return [self.tokenizer.decode(part.tolist()) for part in np.split(ids, begins)[1:]]


@dataclass(frozen=True)
class TextSplit:
    """Which characters of which corpus are training text and which are validation text."""

    train: Corpus
    train_stop: int
    val: Corpus  # the same corpus, or a validation corpus of its own
    val_start: int

    @property
    def n_bytes(self) -> int:
        return self.train.n_bytes + (self.val.n_bytes if self.val is not self.train else 0)

    @property
    def identity(self) -> list[object]:
        """What determines both parts."""
        return [_identity(self.train), self.train_stop, _identity(self.val), self.val_start]

    def train_chunks(self) -> Iterator[TextChunk]:
        return self.train.chunks(0, self.train_stop)

    def val_chunks(self) -> Iterator[TextChunk]:
        return self.val.chunks(self.val_start)


def prepare(
    corpus: Corpus,
    val_corpus: Corpus | None,
    val_fraction: float,
    tokenizer: str | Tokenizer,
    vocab_size: int,
    folder: Path,
    notice: Notice = lambda text: None,
) -> Prepared:
    """Encode a corpus, or open what an earlier call wrote below `folder` for the same arguments.

    Validation text is `val_corpus`, or the last `val_fraction` of the characters; the tokenizer is
    never trained on it. `tokenizer` is "bpe" (trained here), "gpt2", or a tokenizer.
    Raises TextError if the corpus is too short to be split.
    """
    split = text_split(corpus, val_corpus, val_fraction)
    name = tokenizer if isinstance(tokenizer, str) else tokenizer.fingerprint
    size = vocab_size if name == "bpe" else 0
    key = [
        PREPARED_VERSION,
        _identity(split.train),
        split.train_stop,
        _identity(split.val),
        name,
        size,
    ]
    if not isinstance(tokenizer, str) and tokenizer.bos_ids:  # not in ids of earlier versions
        key.append(list(tokenizer.bos_ids))
    target = folder / prepared_name(key)
    if not _is_intact(target):
        shutil.rmtree(target, ignore_errors=True)
        try:
            _write_prepared(target, split, tokenizer, vocab_size, notice)
        except OSError:
            if not _is_intact(target):  # unless another process has written the same meanwhile
                raise
    return _open_prepared(target)


def find_prepared(folder: Path) -> Prepared | None:
    """The prepared corpus in `folder`; None if it is missing or damaged."""
    return _open_prepared(folder) if _is_intact(folder) else None


def prepared_name(key: object) -> str:
    """Folder name below PREPARED_FOLDER: a hash of `key`, a JSON value that determines the data."""
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]


def is_prepared_name(name: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{16}", name) is not None


def train_characters(n_characters: int, val_fraction: float | None) -> int:
    """Number of training characters; `val_fraction` is None with a separate validation text."""
    return n_characters if val_fraction is None else int(n_characters * (1 - val_fraction))


def text_split(corpus: Corpus, val_corpus: Corpus | None, val_fraction: float) -> TextSplit:
    """The split of texts; TextError if one of the parts would be empty."""
    cut = train_characters(corpus.n_characters, None if val_corpus else val_fraction)
    split = TextSplit(corpus, cut, val_corpus or corpus, 0 if val_corpus else cut)
    has_no_validation = val_corpus is None and split.val.n_characters == split.val_start
    if cut == 0 or has_no_validation:
        raise TextError(
            f"{corpus.n_characters} characters cannot be split into training and validation text",
            fix="use more text",
        )
    return split


def _identity(corpus: Corpus) -> list[list[object]]:
    """What determines the text of a corpus: digest, encoding and format of each source."""
    digests = corpus.fingerprint
    return [[digests[source.name], *_reading(source)] for source in corpus.sources]


def _reading(source: Source) -> list[object]:
    """How a source is read; what few sources have comes last, where they have it."""
    reading: list[object] = [source.format.encoding, source.is_json_lines]
    if source.is_json_lines and source.format.text_key != TextFormat.text_key:
        reading.append(source.format.text_key)
    if source.skipped_lines:
        reading.append(sorted(source.skipped_lines))
    if source.left_out:
        reading.append([list(passage) for passage in source.left_out])
    return reading


# ---------------------------------------------------------------- reading


def _is_intact(folder: Path) -> bool:
    try:
        digests = json.loads((folder / "meta.json").read_bytes())["sha256"]
        names = (*PREPARED_FILES, *MARK_FILES) if MARK_FILES[0] in digests else PREPARED_FILES
        return has_digests(folder, names, digests)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _open_prepared(folder: Path) -> Prepared:
    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_mapping(json.loads(path.read_bytes()), str(path))
    meta = json.loads((folder / "meta.json").read_bytes())
    train_ids, val_ids = (
        np.memmap(folder / name, dtype=id_type(tokenizer), mode="r")
        for name in ("train.bin", "val.bin")
    )
    documents = np.frombuffer((folder / "documents.bin").read_bytes(), DOCUMENT_TYPE).reshape(-1, 2)
    has_marks = MARK_FILES[0] in meta["sha256"]
    marks = read_marks(folder, meta, train_ids, val_ids) if has_marks else None
    sizes = meta["train_bytes"], meta["val_bytes"]
    return Prepared(folder, tokenizer, train_ids, val_ids, *sizes, documents, marks)


# ---------------------------------------------------------------- writing


def _write_prepared(
    target: Path, split: TextSplit, choice: str | Tokenizer, vocab_size: int, notice: Notice
) -> None:
    if split.train.n_bytes > NOTICE_BYTES:
        notice(f"preparing {split.train.n_bytes / 1e6:,.0f} MB: training the tokenizer")
    tokenizer = (
        choice if isinstance(choice, Tokenizer) else _new_tokenizer(choice, split, vocab_size)
    )
    documents = array("I")
    chunks = _with_progress(recorded_documents(split.train_chunks(), documents), split, notice)
    with new_folder(target) as temporary:
        write_file(temporary / "tokenizer.json", json_bytes(tokenizer.to_mapping()))
        train_bytes = write_ids(temporary / "train.bin", chunks, tokenizer)
        write_file(temporary / "documents.bin", np.array(documents, DOCUMENT_TYPE).tobytes())
        val_bytes = write_ids(temporary / "val.bin", split.val_chunks(), tokenizer)
        if train_bytes + val_bytes != split.n_bytes:
            raise TextError(
                "the text changed while it was read",
                fix="train when no program writes to it any more",
            )
        digests = digests_of(temporary, PREPARED_FILES)
        meta = {"train_bytes": train_bytes, "val_bytes": val_bytes, "sha256": digests}
        write_file(temporary / "meta.json", json_bytes(meta))


def _new_tokenizer(name: str, split: TextSplit, vocab_size: int) -> Tokenizer:
    if name == "gpt2":
        return Tokenizer.gpt2()
    return Tokenizer.train(tokenizer_sample(split), vocab_size)


def tokenizer_sample(split: TextSplit) -> Iterator[str]:
    """Every n-th chunk of the training text: a sample of limited size from the whole range."""
    every = max(-(-split.train_stop // TOKENIZER_SAMPLE_CHARACTERS), 1)
    return (chunk.text for chunk in itertools.islice(split.train_chunks(), 0, None, every))


def recorded_documents(chunks: Iterable[TextChunk], documents: array[int]) -> Iterator[TextChunk]:
    """The chunks; source and line of each document are appended to `documents`."""
    begins_document = True
    for chunk in chunks:
        if begins_document:
            documents.extend((chunk.source, chunk.line))
        begins_document = chunk.ends_document
        yield chunk


def _with_progress(
    chunks: Iterable[TextChunk], split: TextSplit, notice: Notice
) -> Iterator[TextChunk]:
    """The chunks; `notice` is called every NOTICE_BYTES."""
    done = reported = 0
    for chunk in chunks:
        yield chunk
        done += utf8_length(chunk.text)
        if done - reported >= NOTICE_BYTES:
            reported = done
            notice(f"encoded {done / 1e6:,.0f} of {split.train.n_bytes / 1e6:,.0f} MB")


def write_ids(path: Path, chunks: Iterable[TextChunk], tokenizer: Tokenizer) -> int:
    """Encode on all cores and write in order; returns the number of UTF-8 bytes encoded."""
    dtype = id_type(tokenizer)
    n_bytes, begins_document = 0, True
    chunks, texts = itertools.tee(chunks)
    threads = os.cpu_count() or 1
    with open(path, "wb") as file, ThreadPoolExecutor(threads) as pool:
        encoded = _map_bounded(
            pool, tokenizer.encode_array, (chunk.text for chunk in texts), ahead=2 * threads
        )
        for chunk, ids in zip(chunks, encoded, strict=True):
            if begins_document:
                start = tokenizer.document_start(is_first=n_bytes == 0)
                file.write(np.array(start, dtype).tobytes())
            file.write(ids.astype(dtype).tobytes())
            n_bytes += utf8_length(chunk.text)
            begins_document = chunk.ends_document
        file.flush()
        os.fsync(file.fileno())
    return n_bytes


def _map_bounded(
    pool: ThreadPoolExecutor,
    function: Callable[[str], np.ndarray],
    items: Iterable[str],
    ahead: int,
) -> Iterator[np.ndarray]:
    """`pool.map` with at most `ahead` pending results, so that memory stays bounded."""
    iterator = iter(items)
    futures = [pool.submit(function, item) for item in itertools.islice(iterator, ahead)]
    while futures:
        yield futures.pop(0).result()
        futures.extend(pool.submit(function, item) for item in itertools.islice(iterator, 1))


def id_type(tokenizer: Tokenizer) -> np.dtype:
    return np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
