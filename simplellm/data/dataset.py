"""Ids on disk and the batches cut from them.

Token ids lie in one flat file, memory-mapped, so that a corpus may be larger than memory. A batch
is a pure function of (seed, step, micro_step, rank): there is no iterator state to save, and a run
that is resumed sees exactly the batches it would have seen.

Shapes: B blocks in a batch, T tokens in a block.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from simplellm.data.corpus import Corpus, Piece
from simplellm.data.tokenizer import Tokenizer
from simplellm.errors import TextError
from simplellm.storage.files import new_folder, sha256_of, to_json, write_file

PREPARED_VERSION = 3
PREPARED_FILES = ("tokenizer.json", "train.bin", "val.bin", "documents.bin")
DOCUMENT_TYPE = np.dtype("<u4")
TOLD_BYTES = 25_000_000  # progress is told each time this much is done
TOKENIZER_SAMPLE_CHARACTERS = (
    1 << 25
)  # merges of 1-2k tokens do not change with more text than this (guess)
EpochIds = Callable[[int], np.ndarray]


@dataclass(frozen=True)
class Prepared:
    """A corpus as ids: what training reads and what it is scored on."""

    folder: Path  # where it lies
    tokenizer: Tokenizer
    train_ids: (
        np.ndarray
    )  # memory-mapped, uint16 or uint32; END_OF_TEXT stands before each document
    val_ids: np.ndarray
    train_bytes: int  # UTF-8 bytes of the text behind the ids
    val_bytes: int
    documents: np.ndarray  # (D, 2) uint32, of those behind train_ids: which source of the corpus, and the line it begins at

    def train_documents(self) -> list[str]:
        """The text behind train_ids, for those who can hold it in memory."""
        begins = np.flatnonzero(self.train_ids == self.tokenizer.end_of_text)
        return [self.tokenizer.decode(ids.tolist()) for ids in np.split(self.train_ids, begins)[1:]]


class TextDataset:
    """Windows of T + 1 ids, each of an epoch's windows once in a random order.

    `epoch_ids(epoch)` gives the ids of that epoch: always the same array, or a fresh segmentation.
    A window begins `stride` tokens behind the one before it (default: T, so that none overlap).
    A share `noise` of the inputs is replaced by tokens from elsewhere in the text; the targets stay.
    """

    def __init__(
        self,
        epoch_ids: EpochIds,
        block_size: int,
        seed: int,
        noise: float = 0.0,
        stride: int | None = None,
    ) -> None:
        self.block_size = block_size
        self.seed = seed
        self.noise = noise
        self.stride = stride or block_size
        self._epoch_ids = functools.lru_cache(maxsize=2)(  # a batch may lie across two epochs
            lambda epoch: _at_least(epoch_ids(epoch), block_size + 1)
        )
        self._order = functools.lru_cache(maxsize=2)(self._shuffled)
        first = epoch_ids(0)
        if len(first) <= block_size:
            raise TextError(
                f"the text has {len(first)} tokens, a block needs {block_size + 1}",
                fix=f"use more text{f', or --block-size {max(len(first) // 2, 2)}' if len(first) > 2 else ''}",
            )
        self.windows_per_epoch = max((len(first) - 1 - block_size + self.stride) // self.stride, 1)

    def batch(
        self,
        step: int,
        micro_step: int,
        batch_size: int,
        accumulation: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets, both (B, T) int64; the target of a token is the token after it.

        The windows of a step are the same set however it is cut into micro steps and ranks.
        """
        place = (step * accumulation + micro_step) * world_size + rank
        windows = np.stack(
            [self._window(place * batch_size + i) for i in range(batch_size)]
        )  # (B, T + 1)
        inputs, targets = windows[:, :-1], windows[:, 1:]
        if self.noise:
            first = (micro_step * world_size + rank) * batch_size
            replaced, others = self._noise(step, accumulation * world_size * batch_size)
            inputs = np.where(
                replaced[first : first + batch_size], others[first : first + batch_size], inputs
            )
        return torch.from_numpy(inputs), torch.from_numpy(targets)

    def _noise(self, step: int, n_windows: int) -> tuple[np.ndarray, np.ndarray]:
        """For all windows of a step (n_windows, T): which inputs are replaced, and by what."""
        generator = np.random.default_rng((self.seed, step))
        ids = self._epoch_ids(step * n_windows // self.windows_per_epoch)
        shape = (n_windows, self.block_size)
        return generator.random(shape) < self.noise, ids[
            generator.integers(len(ids), size=shape)
        ].astype(np.int64)

    def epoch_of(self, windows_seen: int) -> float:
        return windows_seen / self.windows_per_epoch

    def _window(self, number: int) -> np.ndarray:
        epoch, place = divmod(number, self.windows_per_epoch)
        ids, (phase, order) = self._epoch_ids(epoch), self._order(epoch)
        start = (phase + int(order[place]) * self.stride) % (len(ids) - self.block_size)
        return ids[start : start + self.block_size + 1].astype(np.int64)

    def _shuffled(self, epoch: int) -> tuple[int, np.ndarray]:
        """A random phase, so that windows begin elsewhere in each epoch, and a random order."""
        generator = np.random.default_rng((self.seed, epoch))
        return int(generator.integers(self.stride)), generator.permutation(self.windows_per_epoch)


def _at_least(ids: np.ndarray, length: int) -> np.ndarray:
    """`ids`, repeated where a fresh segmentation came out shorter than one block."""
    return ids if len(ids) >= length else np.resize(ids, length)


def encode_document(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """END_OF_TEXT and the ids of `text`, as a model is trained to see the beginning of a document."""
    return np.array([tokenizer.end_of_text, *tokenizer.encode(text)], dtype=np.int64)


def prepare(
    corpus: Corpus,
    val_corpus: Corpus | None,
    val_fraction: float,
    tokenizer: str | Tokenizer,
    vocab_size: int,
    folder: Path,
    notice: Callable[[str], None] = lambda text: None,
) -> Prepared:
    """The corpus as ids, made once and found again in `folder` by what it depends on.

    The last `val_fraction` of the characters is held out before the tokenizer is trained, or
    `val_corpus` is. `tokenizer`: bpe (trained here), gpt2, or one that is there already.
    """
    cut = train_characters(corpus.n_characters, None if val_corpus else val_fraction)
    held_out, held_out_from = (val_corpus, 0) if val_corpus else (corpus, cut)
    if cut == 0 or held_out.n_characters == held_out_from:
        raise TextError(
            f"{corpus.n_characters} characters cannot be cut into a part to train on and a part to hold out",
            fix="use more text",
        )
    name = tokenizer if isinstance(tokenizer, str) else tokenizer.fingerprint
    recipe = [
        PREPARED_VERSION,
        _identity(corpus),
        cut,
        _identity(held_out),
        name,
        vocab_size if name == "bpe" else 0,
    ]
    target = folder / hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]
    if not _is_whole(target):
        shutil.rmtree(target, ignore_errors=True)
        try:
            _write_prepared(
                target, corpus, cut, held_out, held_out_from, tokenizer, vocab_size, notice
            )
        except OSError:
            if not _is_whole(target):  # another process may have prepared the same meanwhile
                raise
    return _open_prepared(target)


def train_characters(n_characters: int, val_fraction: float | None) -> int:
    """How many characters of a text are trained on when a fraction of it is held out (None: another text is)."""
    return n_characters if val_fraction is None else int(n_characters * (1 - val_fraction))


def find_prepared(folder: Path) -> Prepared | None:
    """What was prepared earlier, if it is there and whole."""
    return _open_prepared(folder) if _is_whole(folder) else None


def _write_prepared(
    target: Path,
    corpus: Corpus,
    cut: int,
    held_out: Corpus,
    held_out_from: int,
    tokenizer: str | Tokenizer,
    vocab_size: int,
    notice: Callable[[str], None],
) -> None:
    if corpus.n_bytes > TOLD_BYTES:
        notice(f"preparing {corpus.n_bytes / 1e6:,.0f} MB: training the tokenizer")
    trained = (
        tokenizer
        if isinstance(tokenizer, Tokenizer)
        else _tokenizer(tokenizer, corpus, cut, vocab_size)
    )
    with new_folder(target) as temporary:
        write_file(temporary / "tokenizer.json", to_json(trained.to_json()))
        documents = array("I")
        told = _told(_listed(corpus.pieces(0, cut), documents), corpus.n_bytes, notice)
        train_bytes = _write_ids(temporary / "train.bin", told, trained)
        write_file(temporary / "documents.bin", np.array(documents, DOCUMENT_TYPE).tobytes())
        val_bytes = _write_ids(temporary / "val.bin", held_out.pieces(held_out_from), trained)
        if train_bytes + val_bytes != corpus.n_bytes + (
            held_out.n_bytes if held_out is not corpus else 0
        ):
            raise TextError(
                "the text changed while it was read",
                fix="train on it when it is written to no more",
            )
        digests = {name: sha256_of(temporary / name) for name in PREPARED_FILES}
        write_file(
            temporary / "meta.json",
            to_json({"train_bytes": train_bytes, "val_bytes": val_bytes, "sha256": digests}),
        )


def _told(pieces: Iterable[Piece], n_bytes: int, notice: Callable[[str], None]) -> Iterator[Piece]:
    """The pieces, with a word on how far they have got every now and then."""
    done = told = 0
    for piece in pieces:
        yield piece
        done += len(piece.text.encode("utf-8", "replace"))
        if done - told >= TOLD_BYTES:
            told = done
            notice(f"encoded {done / 1e6:,.0f} of {n_bytes / 1e6:,.0f} MB")


def _listed(pieces: Iterable[Piece], documents: array[int]) -> Iterator[Piece]:
    """The pieces; the source and line of each document that begins are put into `documents`."""
    begins_document = True
    for piece in pieces:
        if begins_document:
            documents.extend((piece.source, piece.line))
        begins_document = piece.ends_document
        yield piece


def _identity(corpus: Corpus) -> list[list[object]]:
    """What decides the text of a corpus: the bytes of its files, and how they are read."""
    digests = corpus.fingerprint
    return [
        [digests[source.name], source.encoding, source.name.endswith(".jsonl")]
        for source in corpus.sources
    ]


def _is_whole(folder: Path) -> bool:
    """Whether ids prepared earlier are there and unchanged."""
    try:
        digests = json.loads((folder / "meta.json").read_bytes())["sha256"]
        return all(sha256_of(folder / name) == digests[name] for name in PREPARED_FILES)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _tokenizer(name: str, corpus: Corpus, cut: int, vocab_size: int) -> Tokenizer:
    if name == "gpt2":
        return Tokenizer.gpt2()
    return Tokenizer.train((piece.text for piece in _sample(corpus, cut)), vocab_size)


def _sample(corpus: Corpus, cut: int) -> Iterator[Piece]:
    """Every n-th piece of the training part, so that the sample stays small and spans the whole."""
    every = -(-cut // TOKENIZER_SAMPLE_CHARACTERS)
    return itertools.islice(corpus.pieces(0, cut), 0, None, every)


def _write_ids(path: Path, pieces: Iterable[Piece], tokenizer: Tokenizer) -> int:
    """Encode on all cores, write in order; returns the UTF-8 bytes encoded."""
    dtype = _id_type(tokenizer)
    n_bytes, begins_document = 0, True
    pieces, texts = itertools.tee(pieces)
    threads = os.cpu_count() or 1
    with open(path, "wb") as file, ThreadPoolExecutor(threads) as pool:
        encoded = _map_bounded(
            pool, tokenizer.encode_array, (piece.text for piece in texts), ahead=2 * threads
        )
        for piece, ids in zip(pieces, encoded, strict=True):
            if begins_document:
                file.write(dtype.type(tokenizer.end_of_text).tobytes())
            file.write(ids.astype(dtype).tobytes())
            n_bytes += len(piece.text.encode("utf-8", "replace"))
            begins_document = piece.ends_document
        file.flush()
        os.fsync(file.fileno())
    return n_bytes


def _map_bounded(
    pool: ThreadPoolExecutor,
    function: Callable[[str], np.ndarray],
    items: Iterable[str],
    ahead: int,
) -> Iterator[np.ndarray]:
    """Like `pool.map`, but takes only `ahead` items before their results are asked for: memory stays bounded."""
    iterator = iter(items)
    futures = [pool.submit(function, item) for item in itertools.islice(iterator, ahead)]
    while futures:
        yield futures.pop(0).result()
        futures.extend(pool.submit(function, item) for item in itertools.islice(iterator, 1))


def _id_type(tokenizer: Tokenizer) -> np.dtype:
    return np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")


def _open_prepared(folder: Path) -> Prepared:
    tokenizer = Tokenizer.from_json(
        json.loads((folder / "tokenizer.json").read_bytes()), str(folder / "tokenizer.json")
    )
    meta = json.loads((folder / "meta.json").read_bytes())
    train_ids, val_ids = (
        np.memmap(folder / name, dtype=_id_type(tokenizer), mode="r")
        for name in ("train.bin", "val.bin")
    )
    documents = np.frombuffer((folder / "documents.bin").read_bytes(), DOCUMENT_TYPE).reshape(-1, 2)
    return Prepared(
        folder, tokenizer, train_ids, val_ids, meta["train_bytes"], meta["val_bytes"], documents
    )
