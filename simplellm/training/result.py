"""The result of a training run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """What a run has reached. Validation figures are those of the best checkpoint."""

    run: str
    path: str
    steps: int
    best_step: int
    val_loss: float
    perplexity: float
    bits_per_byte: float
    train_seconds: float
    tokens_per_second: float
    parameters: int
    stopped: bool  # on request, before the last step
