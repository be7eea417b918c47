"""Limits of a run that its time budget cannot change."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from simplellm.config.setting import ExplicitSettings
from simplellm.config.training import TrainConfig
from simplellm.training.trainer import Trainer

LIMITS = ("budget", "max_steps", "max_epochs")
REPLACED = {  # a limit that is given now -> earlier limits that no longer apply
    "max_steps": ("budget", "max_epochs"),
    "max_epochs": ("budget", "max_steps"),
    "budget": ("max_steps",),
}


@dataclass(frozen=True)
class Limits:
    """The maximum number of steps (infinite: none), and the evaluation interval if it is fixed."""

    max_steps: float
    eval_interval: int | None = None

    @classmethod
    def of(cls, trainer: Trainer, given: ExplicitSettings) -> Limits:
        """The limits in the settings that the user gave, and the epochs of the config."""
        names = ("max_steps", "eval_interval")
        config = TrainConfig.from_mapping({name: given.get(name) for name in names})
        return cls(steps_limit(trainer, config.max_steps), config.eval_interval)


def replaced_limits(names: Iterable[str]) -> set[str]:
    """Earlier limits of a run that the new limits `names` replace."""
    return {earlier for name in names for earlier in REPLACED.get(name, ())}


def steps_limit(trainer: Trainer, max_steps: int | None) -> float:
    """The smaller of `max_steps` and the steps of `max_epochs`; infinite without both."""
    return min(max_steps or math.inf, steps_of_epochs(trainer))


def steps_of_epochs(trainer: Trainer) -> float:
    """Steps that read the text `max_epochs` times; infinite without that limit."""
    max_epochs = trainer.config.max_epochs
    if max_epochs is None:
        return math.inf
    return math.ceil(max_epochs * trainer.dataset.windows_per_epoch / _windows_per_step(trainer))


def epochs_of_steps(trainer: Trainer, step: int) -> float:
    """How many times `step` steps read the text."""
    return step * _windows_per_step(trainer) / trainer.dataset.windows_per_epoch


def _windows_per_step(trainer: Trainer) -> int:
    return trainer.tokens_per_step // trainer.dataset.block_size
