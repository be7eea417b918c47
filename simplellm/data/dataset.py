"""Training batches: windows of token ids in random order.

A batch is a pure function of (seed, step, micro_step, rank). There is no iterator state to save,
and a resumed run gets exactly the batches it would have got.

Shapes: B blocks in a batch, T tokens in a block.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch

from simplellm.data.tokenizer import Tokenizer
from simplellm.errors import TextError

EpochIds = Callable[[int], np.ndarray]  # epoch -> token ids of that epoch


class TextDataset:
    """Windows of T + 1 ids; each epoch visits each of its windows once, in random order.

    `epoch_ids(epoch)` gives the ids of an epoch: always the same array, or a new segmentation.
    Consecutive windows start `stride` tokens apart (default: T, without overlap).
    A fraction `noise` of the input tokens is replaced by random tokens of the text; targets are
    unchanged.
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
        self._epoch_ids = functools.lru_cache(maxsize=2)(  # a batch may span two epochs
            lambda epoch: _at_least(epoch_ids(epoch), block_size + 1)
        )
        self._order = functools.lru_cache(maxsize=2)(self._shuffled)
        n_ids = len(epoch_ids(0))
        if n_ids <= block_size:
            shorter = f", or --block-size {max(n_ids // 2, 2)}" if n_ids > 2 else ""
            raise TextError(
                f"the text has {n_ids} tokens, a block needs {block_size + 1}",
                fix=f"use more text{shorter}",
            )
        self.windows_per_epoch = max((n_ids - 1 - block_size + self.stride) // self.stride, 1)

    def batch(
        self,
        step: int,
        micro_step: int,
        batch_size: int,
        accumulation: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets, both (B, T) int64; the target of a token is the next token.

        All micro steps and ranks of a step together get the same windows, however many there are.
        """
        index = (step * accumulation + micro_step) * world_size + rank
        windows = np.stack(
            [self._window(index * batch_size + i) for i in range(batch_size)]
        )  # (B, T + 1)
        inputs, targets = windows[:, :-1], windows[:, 1:]
        if self.noise:
            first = (micro_step * world_size + rank) * batch_size
            rows = slice(first, first + batch_size)
            is_replaced, others = self._noise(step, accumulation * world_size * batch_size)
            inputs = np.where(is_replaced[rows], others[rows], inputs)
        return torch.from_numpy(inputs), torch.from_numpy(targets)

    def epoch_of(self, windows_seen: int) -> float:
        return windows_seen / self.windows_per_epoch

    def _noise(self, step: int, n_windows: int) -> tuple[np.ndarray, np.ndarray]:
        """For all windows of a step: which inputs are replaced, and by what; both (n_windows, T)"""
        generator = np.random.default_rng((self.seed, step))
        ids = self._epoch_ids(step * n_windows // self.windows_per_epoch)
        shape = (n_windows, self.block_size)
        is_replaced = generator.random(shape) < self.noise
        others = ids[generator.integers(len(ids), size=shape)].astype(np.int64)
        return is_replaced, others

    def _window(self, number: int) -> np.ndarray:
        epoch, index = divmod(number, self.windows_per_epoch)
        ids, (phase, order) = self._epoch_ids(epoch), self._order(epoch)
        start = (phase + int(order[index]) * self.stride) % (len(ids) - self.block_size)
        return ids[start : start + self.block_size + 1].astype(np.int64)

    def _shuffled(self, epoch: int) -> tuple[int, np.ndarray]:
        """Random phase of an epoch, which shifts all windows, and the random order of windows."""
        generator = np.random.default_rng((self.seed, epoch))
        return int(generator.integers(self.stride)), generator.permutation(self.windows_per_epoch)


def _at_least(ids: np.ndarray, length: int) -> np.ndarray:
    """`ids`, repeated if a segmentation has fewer tokens than one window."""
    return ids if len(ids) >= length else np.resize(ids, length)


def encode_document(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """END_OF_TEXT, or the `bos_ids`, and the ids of `text`: a document at its beginning."""
    start = tokenizer.document_start(is_first=True)
    return np.array([*start, *tokenizer.encode(text)], dtype=np.int64)
