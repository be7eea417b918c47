"""Scoring of a text by a model: loss, perplexity, accuracy and bits per byte.

The text is scored in windows of block_size tokens that overlap by half. A token is scored in the
first window that contains it, so that each one counts once and has at least half a block of
context.

Shapes: B windows, T tokens of a window, V vocabulary, N scored tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from simplellm.model.transformer import SimpleLLM

TOKENS_PER_EVALUATION_BATCH = 8192
Progress = Callable[[float], None]


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts a text."""

    tokens: int  # scored
    bytes: int  # UTF-8 bytes of the scored text
    loss: float  # nats per token
    accuracy: float  # share of tokens that were the most likely one

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
        }


def evaluate(
    model: SimpleLLM, ids: np.ndarray, n_bytes: int, progress: Progress = lambda done: None
) -> Evaluation:
    """Score `ids[1:]`, a text of `n_bytes` bytes; `ids[0]` is the END_OF_TEXT before it.

    Dropout is off, and logits are compared in float32. `progress` receives the share that is done.
    """
    nats, hits = token_scores(model, ids, progress)
    return Evaluation.of(nats, hits, n_bytes)


@torch.no_grad()
def token_scores(
    model: SimpleLLM, ids: np.ndarray, progress: Progress = lambda done: None
) -> tuple[np.ndarray, np.ndarray]:
    """For each of `ids[1:]`: its loss in nats (N) float64, and whether it was most likely (N)."""
    was_training = model.training
    model.eval()
    n_scored = len(ids) - 1
    T = min(model.config.block_size, n_scored)
    nats, hits = np.empty(n_scored), np.empty(n_scored, dtype=bool)
    starts = window_starts(n_scored, model.config.block_size)
    windows_per_batch = max(TOKENS_PER_EVALUATION_BATCH // model.config.block_size, 1)
    for i in range(0, len(starts), windows_per_batch):
        batch_starts = starts[i : i + windows_per_batch]
        windows = np.stack([ids[start : start + T + 1] for start in batch_starts])  # (B, T + 1)
        scores = _window_scores(model, windows)
        done = batch_starts[0] + _n_scored_before(starts, i, T)
        for row, start in enumerate(batch_starts):
            nats[done : start + T] = scores[0, row, done - start :]
            hits[done : start + T] = scores[1, row, done - start :]
            done = start + T
        progress(done / n_scored)
    model.train(was_training)
    return nats, hits


def _window_scores(model: SimpleLLM, windows: np.ndarray) -> np.ndarray:
    """Nats and hits (2, B, T) float32 of all tokens but the first of each window (B, T + 1)."""
    device = model.token_embedding.weight.device
    block = torch.from_numpy(windows.astype(np.int64)).to(device)
    logits = model(block[:, :-1]).float()  # (B, T, V)
    targets = block[:, 1:]  # (B, T)
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")  # (B * T)
    hits = logits.argmax(-1) == targets
    # One copy to the host; float64 follows there, because MPS does not have it.
    return torch.stack([losses.view_as(targets), hits.float()]).cpu().numpy()


def window_starts(n_scored: int, block_size: int) -> list[int]:
    """Start of each window; the last window is moved back so that it ends with the text."""
    if n_scored <= block_size:
        return [0]
    last = n_scored - block_size
    return [*range(0, last, max(block_size // 2, 1)), last]


def _n_scored_before(starts: Sequence[int], i: int, length: int) -> int:
    """How many tokens of window `i` were scored in the window before it."""
    return 0 if i == 0 else starts[i - 1] + length - starts[i]
