"""Training batches of documents that are packed into blocks, such as conversations.

A batch is a pure function of (seed, step, micro_step, rank), as in dataset.py. A document stands in
one block, and the model keeps the documents of a block apart; only what is longer than a block is
cut. Each epoch has the same number of blocks, because the lengths are packed once: an epoch decides
which of the documents of one length comes where, and the order of the blocks.

Shapes: B blocks in a batch, T tokens in a block.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from simplellm.data.marked_ids import MarkedIds
from simplellm.errors import TextError

LEARNED_WEIGHT = 1.0


class Batch(NamedTuple):
    """A micro step: `ids` and `targets` (B, T) int64; the other parts are None for plain text.

    weights: of each target in the loss, (B, T) float32. documents: number of the document of each
    token, (B, T) int64. share: this batch's part of the weights of all micro steps and ranks of the
    step, times the number of ranks, whose gradients are averaged.
    """

    ids: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor | None = None
    documents: torch.Tensor | None = None
    share: float | None = None

    def on(self, upload: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        """The batch with each tensor replaced by `upload` of it."""
        ids, targets, weights, documents, share = self
        return Batch(
            upload(ids),
            upload(targets),
            None if weights is None else upload(weights),
            None if documents is None else upload(documents),
            share,
        )


@dataclass(frozen=True)
class _Epoch:
    """Piece of each slot, first slot of each block, order of the blocks, weight of each block."""

    pieces: np.ndarray
    order: np.ndarray
    weights: np.ndarray


class PackedDataset:
    """Blocks of T inputs and T targets; each target of the documents is there once in an epoch.

    Targets that are learned have the weight 1 in the loss, others `prompt_weight`, padding 0.
    """

    def __init__(
        self, documents: MarkedIds, block_size: int, seed: int, prompt_weight: float = 0.0
    ) -> None:
        self.block_size = block_size
        self.seed = seed
        self.prompt_weight = prompt_weight
        self._ids = documents.ids
        self._is_learned = documents.is_learned
        starts, sizes = _pieces(documents, block_size)
        if not len(starts):
            raise TextError("there are no conversations to train on", fix="use more conversations")
        by_size = np.argsort(-sizes, kind="stable")
        self._starts, self._sizes = starts[by_size], sizes[by_size]  # longest first
        blocks = pack(self._sizes.tolist(), block_size)
        self._slots = np.concatenate([np.array(block, np.int64) for block in blocks])
        self._bounds = np.cumsum([0, *map(len, blocks)])  # slots of each block
        self._epoch = functools.lru_cache(maxsize=2)(self._arranged)  # a batch may span two epochs

    @property
    def windows_per_epoch(self) -> int:
        """Blocks in an epoch."""
        return len(self._bounds) - 1

    def epoch_of(self, windows_seen: int) -> float:
        return windows_seen / self.windows_per_epoch

    def batch(
        self,
        step: int,
        micro_step: int,
        batch_size: int,
        accumulation: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> Batch:
        """The blocks of one micro step.

        All micro steps and ranks of a step together get the same blocks, however many there are.
        """
        parts = accumulation * world_size
        part = micro_step * world_size + rank
        first = step * parts * batch_size
        weights = [self._block_weight(first + i) for i in range(parts * batch_size)]
        own = slice(part * batch_size, (part + 1) * batch_size)
        blocks = [self._block(first + i) for i in range(own.start, own.stop)]
        ids, targets, loss_weights, documents = (
            torch.from_numpy(np.stack(rows)) for rows in zip(*blocks, strict=True)
        )
        total = sum(weights)
        share = sum(weights[own]) * world_size / total if total else 0.0
        return Batch(ids, targets, loss_weights, documents, share)

    def _block_weight(self, number: int) -> float:
        """The sum of the weights of the targets of a block."""
        epoch, index = divmod(number, self.windows_per_epoch)
        arranged = self._epoch(epoch)
        return float(arranged.weights[arranged.order[index]])

    def _block(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Ids, targets, weights and documents of a block, (T) each."""
        epoch, index = divmod(number, self.windows_per_epoch)
        arranged = self._epoch(epoch)
        block = int(arranged.order[index])
        T = self.block_size
        ids, targets = np.zeros(T, np.int64), np.zeros(T, np.int64)
        weights = np.zeros(T, np.float32)
        pieces = arranged.pieces[self._bounds[block] : self._bounds[block + 1]]
        documents = np.full(T, len(pieces), np.int64)  # padding comes last
        end = 0
        for document, piece in enumerate(pieces):
            start, size = int(self._starts[piece]), int(self._sizes[piece])
            row = slice(end, end + size)
            ids[row] = self._ids[start : start + size]
            targets[row] = self._ids[start + 1 : start + size + 1]
            is_learned = self._is_learned[start + 1 : start + size + 1]
            weights[row] = np.where(is_learned, LEARNED_WEIGHT, self.prompt_weight)
            documents[row] = document
            end += size
        return ids, targets, weights, documents

    def _arranged(self, epoch: int) -> _Epoch:
        """Pieces of one size change places with each other, then the blocks."""
        generator = np.random.default_rng((self.seed, epoch))
        shuffled = np.lexsort((generator.random(len(self._sizes)), -self._sizes))
        pieces = shuffled[self._slots]
        weights = np.add.reduceat(self._piece_weights[pieces], self._bounds[:-1])
        return _Epoch(pieces, generator.permutation(self.windows_per_epoch), weights)

    @functools.cached_property
    def _piece_weights(self) -> np.ndarray:
        """The sum of the weights of the targets of each piece (float64)."""
        counts = np.concatenate([[0], np.cumsum(self._is_learned, dtype=np.int64)])
        ends = self._starts + self._sizes + 1
        learned = counts[ends] - counts[self._starts + 1]
        return LEARNED_WEIGHT * learned + self.prompt_weight * (self._sizes - learned)


def pack(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Blocks of indices into `sizes`, which fall; no block is larger than `capacity`.

    Best fit decreasing: each size goes into the fullest block that has room for it.
    """
    blocks: list[list[int]] = []
    free: list[tuple[int, int]] = []  # room and number of the blocks that are not full, ascending
    for index, size in enumerate(sizes):
        found = bisect.bisect_left(free, (size, -1))
        if found < len(free):
            room, block = free.pop(found)
        else:
            room, block = capacity, len(blocks)
            blocks.append([])
        blocks[block].append(index)
        if room > size:
            bisect.insort(free, (room - size, block))
    return blocks


def _pieces(documents: MarkedIds, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """First input and number of targets of each piece: a document, or a part of a long one.

    The last target of a part is the first input of the next one, so that no target is lost.
    """
    starts: list[np.ndarray] = []
    sizes: list[np.ndarray] = []
    for start, length in zip(documents.starts[:-1], documents.lengths, strict=True):
        offsets = np.arange(0, length - 1, block_size, dtype=np.int64)
        starts.append(start + offsets)
        sizes.append(np.minimum(length - 1 - offsets, block_size))
    if not starts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate(starts), np.concatenate(sizes)
