"""Scoring of a text by a model: loss, perplexity, accuracy and bits per byte.

The text is scored in windows of block_size tokens that overlap by half. A token is scored in the
first window that contains it, so that each one counts once and has at least half a block of
context.

Shapes: B windows, T tokens of a window, V vocabulary, N scored tokens.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from simplellm.model.transformer import SimpleLLM

TOKENS_PER_EVALUATION_BATCH = 8192
# A model with a vocabulary of this size comes from elsewhere and is large: a smaller batch fills
# the cores too, and its activations take a quarter of the memory.
LARGE_VOCABULARY = 1 << 14
TOKENS_OF_LARGE_MODEL = 2048
SEGMENT_TOKENS = 1 << 20  # whose scores are summed at once
# Logits that are in memory at once: all of a batch (256 MB) for the vocabularies that are trained
# here, a part of them (32 MB) for those of open models.
MAX_LOGITS, MAX_LOGITS_OF_LARGE_MODEL = 1 << 26, 1 << 23
Progress = Callable[[float], None]


class TokenIds(Protocol):
    """Token ids of a text, in memory or in a file."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts a text."""

    tokens: int  # scored
    bytes: int  # UTF-8 bytes of the scored text
    loss: float  # nats per token
    accuracy: float  # share of tokens that were the most likely one
    text: Evaluation | None = None  # of the text, where the others are of replies, in mixed data
    train_accuracy: float | None = None  # on a sample of the training replies; None for texts

    @classmethod
    def of(cls, nats: np.ndarray, hits: np.ndarray, n_bytes: int) -> Evaluation:
        """From the result of `token_scores`: `nats` (N) and `hits` (N)."""
        return cls(len(nats), n_bytes, float(nats.mean()), float(hits.mean()))

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))  # above e^709 a float overflows

    @property
    def bits_per_byte(self) -> float:
        """Total nats / ln 2 / bytes: comparable between vocabularies."""
        return self.loss * self.tokens / math.log(2) / self.bytes

    def to_mapping(self) -> dict[str, float]:
        return {
            "tokens": self.tokens,
            "bytes": self.bytes,
            "loss": self.loss,
            "perplexity": self.perplexity,
            "accuracy": self.accuracy,
            "bits_per_byte": self.bits_per_byte,
            **(
                {"text_loss": self.text.loss, "text_bits_per_byte": self.text.bits_per_byte}
                if self.text
                else {}
            ),
            **({} if self.train_accuracy is None else {"train_accuracy": self.train_accuracy}),
        }


def evaluate(
    model: SimpleLLM,
    ids: TokenIds,
    n_bytes: int,
    progress: Progress = lambda done: None,
    unscored: Sequence[int] = (),
) -> Evaluation:
    """Score `ids[1:]`, a text of `n_bytes` bytes; `ids[0]` is what begins a document.

    Dropout is off, and logits are compared in float32. `progress` receives the share that is done.
    Memory does not grow with the text. unscored: ids that are context only, such as BOS.
    """
    total = np.zeros(2)  # nats and hits
    pending: list[np.ndarray] = []  # scores (2, n) that are summed together
    n_scored = n_read = n_pending = 0
    for scores, targets in _scores(model, ids):
        pending.append(scores[:, is_scored(targets, unscored)])
        n_pending += pending[-1].shape[1]
        n_scored += pending[-1].shape[1]
        n_read += len(targets)
        if n_pending >= SEGMENT_TOKENS or n_read == len(ids) - 1:
            total += np.concatenate(pending, axis=1).sum(1)
            pending.clear()
            n_pending = 0
        progress(n_read / (len(ids) - 1))
    nats, hits = (total / max(n_scored, 1)).tolist()
    return Evaluation(n_scored, n_bytes, nats, hits)


def token_scores(
    model: SimpleLLM, ids: TokenIds, unscored: Sequence[int] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """For each of `ids[1:]`: its loss in nats (N) float64, and whether it was most likely (N).

    Without those of `unscored`.
    """
    parts = [scores[:, is_scored(targets, unscored)] for scores, targets in _scores(model, ids)]
    nats, hits = np.concatenate(parts, axis=1)
    return nats, hits.astype(bool)


def is_scored(targets: np.ndarray, unscored: Sequence[int]) -> np.ndarray:
    """Which of `targets` (N) count."""
    return ~np.isin(targets, unscored)


@torch.no_grad()
def _scores(model: SimpleLLM, ids: TokenIds) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Nats and hits (2, n) float64 of `ids[1:]`, and these (n), in batches of windows."""
    was_training = model.training
    model.eval()
    n_scored = len(ids) - 1
    T = min(model.config.block_size, n_scored)
    starts = window_starts(n_scored, model.config.block_size)
    is_large = model.config.vocab_size >= LARGE_VOCABULARY
    n_tokens = TOKENS_OF_LARGE_MODEL if is_large else TOKENS_PER_EVALUATION_BATCH
    windows_per_batch = max(n_tokens // model.config.block_size, 1)
    done = 0
    while batch_starts := list(itertools.islice(starts, windows_per_batch)):
        windows = np.stack([ids[start : start + T + 1] for start in batch_starts])  # (B, T + 1)
        scores = _window_scores(model, windows)
        parts = []
        for row, start in enumerate(batch_starts):
            parts.append(scores[:, row, done - start :])
            done = start + T
        scored = np.concatenate(parts, axis=1).astype(np.float64)
        yield scored, ids[done - scored.shape[1] + 1 : done + 1]
    model.train(was_training)


def _window_scores(model: SimpleLLM, windows: np.ndarray) -> np.ndarray:
    """Nats and hits (2, B, T) float32 of all tokens but the first of each window (B, T + 1)."""
    device = model.token_embedding.weight.device
    block = torch.from_numpy(windows.astype(np.int64)).to(device)
    hidden = model.hidden(block[:, :-1]).flatten(0, 1)  # (B * T, C)
    targets = block[:, 1:]  # (B, T)
    return row_scores(model, hidden, targets.flatten()).reshape(2, *targets.shape)


def row_scores(model: SimpleLLM, hidden: Tensor, targets: Tensor) -> np.ndarray:
    """Nats and hits (2, N) float32 of `targets` (N) for the residual stream `hidden` (N, C)."""
    scores = []
    V = model.config.vocab_size
    n_rows = max((MAX_LOGITS_OF_LARGE_MODEL if V >= LARGE_VOCABULARY else MAX_LOGITS) // V, 1)
    for rows, wanted in zip(hidden.split(n_rows), targets.split(n_rows), strict=True):
        logits = model.logits(rows).float()  # (rows, V)
        losses = F.cross_entropy(logits, wanted, reduction="none")
        scores.append(torch.stack([losses, (logits.argmax(-1) == wanted).float()]))
    # One copy to the host; float64 follows there, because MPS does not have it.
    return torch.cat(scores, 1).cpu().numpy()


def window_starts(n_scored: int, block_size: int) -> Iterator[int]:
    """Start of each window; the last window is moved back so that it ends with the text."""
    last = max(n_scored - block_size, 0)
    yield from range(0, last, max(block_size // 2, 1))
    yield last
