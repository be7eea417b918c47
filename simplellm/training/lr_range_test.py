"""The learning-rate range test: let the rate rise from step to step and see where the loss falls fastest.

Smith 2017, "Cyclical learning rates for training neural networks", 3.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from simplellm.errors import StoppedEarly, TrainingError
from simplellm.training.trainer import Trainer

STEPS = 100
LOWEST_FACTOR, HIGHEST_FACTOR = 1e-3, 30.0  # of the rate the config has
SMOOTHING = 0.9  # memory of the averaged loss
DIVERGED_RATIO = 1.5  # times the lowest loss, where the test may end
SPAN = 8  # steps over which a slope is taken


@dataclass(frozen=True)
class RangeTest:
    """Rates of AdamW and the smoothed loss at each, and the rate it comes to."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float


def find_rate(trainer: Trainer) -> RangeTest:
    """Run the test with a trainer that is thrown away afterwards. All rates rise together; AdamW's is reported."""
    rates: list[float] = []
    losses: list[float] = []
    average = 0.0
    for step in range(STEPS):
        if trainer.runtime.should_stop():
            raise StoppedEarly("stopped before the range test was done")
        factor = LOWEST_FACTOR * (HIGHEST_FACTOR / LOWEST_FACTOR) ** (step / (STEPS - 1))
        try:
            trainer.train_step(factor)
        except TrainingError:  # the loss is no number any more
            break
        average = SMOOTHING * average + (1 - SMOOTHING) * trainer.loss
        rates.append(trainer.config.learning_rate * factor)
        losses.append(average / (1 - SMOOTHING ** (step + 1)))
        if losses[-1] > DIVERGED_RATIO * min(losses):
            break
    return RangeTest(tuple(rates), tuple(losses), suggest(rates, losses))


def suggest(rates: list[float], losses: list[float]) -> float:
    """The rate at which the smoothed loss fell fastest over its logarithm, to two digits."""
    slopes = [
        (
            (losses[i + SPAN] - losses[i]) / math.log(rates[i + SPAN] / rates[i]),
            math.sqrt(rates[i] * rates[i + SPAN]),
        )
        for i in range(len(rates) - SPAN)
    ]
    return float(f"{min(slopes)[1] if slopes else rates[0]:.2g}")
