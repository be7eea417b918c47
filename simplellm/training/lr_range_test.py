"""The learning-rate range test: raise the rate from step to step, and find the steepest descent.

Smith 2017, "Cyclical learning rates for training neural networks", section 3.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from simplellm.errors import StoppedEarly, TrainingError
from simplellm.training.training_step import Learner

STEPS = 100
LOWEST_FACTOR, HIGHEST_FACTOR = 1e-3, 30.0  # of the configured rate
SMOOTHING = 0.9  # decay of the moving average of the loss
DIVERGED_RATIO = 1.5  # of the loss to the lowest one, from which the test ends
SPAN = 8  # steps over which a slope is computed


@dataclass(frozen=True)
class RangeTest:
    """AdamW's rates, the smoothed loss at each, and the suggested rate."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float


def find_rate(learner: Learner) -> RangeTest:
    """Run the test; the learner's weights are of no use afterwards.

    All rates rise together, and AdamW's is reported. StoppedEarly on a request to stop.
    """
    rates: list[float] = []
    losses: list[float] = []
    average = 0.0
    for step in range(STEPS):
        if learner.runtime.should_stop():
            raise StoppedEarly("stopped before the range test was done")
        factor = LOWEST_FACTOR * (HIGHEST_FACTOR / LOWEST_FACTOR) ** (step / (STEPS - 1))
        try:
            learner.train_step(factor)
        except TrainingError:  # the loss is not finite any more
            break
        average = SMOOTHING * average + (1 - SMOOTHING) * learner.loss
        rates.append(learner.config.learning_rate * factor)
        losses.append(average / (1 - SMOOTHING ** (step + 1)))  # without the bias to 0
        if losses[-1] > DIVERGED_RATIO * min(losses):
            break
    return RangeTest(tuple(rates), tuple(losses), suggest(rates, losses))


def suggest(rates: list[float], losses: list[float]) -> float:
    """The rate at which the loss falls fastest over the logarithm of the rate, to two digits."""
    slopes = [
        (
            (losses[i + SPAN] - losses[i]) / math.log(rates[i + SPAN] / rates[i]),
            math.sqrt(rates[i] * rates[i + SPAN]),
        )
        for i in range(len(rates) - SPAN)
    ]
    return float(f"{min(slopes)[1] if slopes else rates[0]:.2g}")
