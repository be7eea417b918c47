"""Exponential moving average (EMA) of the weights: the weights that are evaluated and saved."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from simplellm.model.lora import trained_weights
from simplellm.model.transformer import SimpleLLM


class EMA:
    """Exponential moving average of a model's weights; `decay` 0 is off and keeps no copy.

    With LoRA only of the adapters: the other weights do not change.
    """

    def __init__(self, model: SimpleLLM, decay: float) -> None:
        self.decay = decay
        self._weights: list[Tensor] = list(trained_weights(model).values())
        self._averages = (
            [weight.detach().clone() for weight in self._weights] if decay else self._weights
        )

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after `step` (0 is the first) to the average.

        The decay grows over the first steps, so that the initial weights lose their influence soon.
        """
        if self.decay:
            decay = min(self.decay, (step + 1) / (step + 10))
            weights = [weight.detach() for weight in self._weights]
            torch._foreach_lerp_(self._averages, weights, 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the model holds the averaged weights."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def stored(self) -> list[Tensor]:
        """The weights that the model does not hold; none with decay 0.

        The averaged weights, but within `applied` the current weights of training.
        """
        return self._averages if self.decay else []

    @torch.no_grad()
    def load(self, averages: list[Tensor]) -> None:
        """Continue from saved averages."""
        for average, saved in zip(self._averages, averages, strict=True):
            average.copy_(saved)

    @torch.no_grad()
    def _exchange(self) -> None:
        if self.decay:
            for weight, average in zip(self._weights, self._averages, strict=True):
                weight.data, average.data = average.data, weight.data
