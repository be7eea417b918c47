"""Limits of a resumed run: --max-steps, --max-epochs and --budget given now replace earlier ones.

A limit that is given takes effect, or it is refused with the reason.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from simplellm.config.setting import ExplicitSettings
from simplellm.config.training import TrainConfig
from simplellm.errors import SettingError
from simplellm.training.resume_changes import is_as_given
from simplellm.training.run_info import RunInfo
from simplellm.training.schedule import Decision
from simplellm.training.step_limits import (
    LIMITS,
    epochs_of_steps,
    replaced_limits,
    steps_limit,
    steps_of_epochs,
)
from simplellm.training.trainer import Trainer


@dataclass(frozen=True)
class NewLimits:
    """Limits that are given at a resume and are not those of the run. None if `changed` is empty.

    given: all settings given now. changed: names of the new limits.
    """

    given: ExplicitSettings
    changed: tuple[str, ...] = ()

    @classmethod
    def of(cls, info: RunInfo, given: ExplicitSettings) -> NewLimits:
        """Repeating the limits of the start is no change."""
        now = {name: given[name] for name in LIMITS if name in given}
        started = {name: info.given[name] for name in LIMITS if name in info.given}
        known = info.training.to_mapping()
        changed = [name for name, value in now.items() if value != known[name]]
        return cls(given, () if now == started else tuple(changed))

    @property
    def dropped(self) -> set[str]:
        """Limits of the run that no longer apply."""
        new = [name for name in self.changed if self.given[name] is not None]
        return replaced_limits(new) - set(self.given)

    def applied(self, config: TrainConfig) -> TrainConfig:
        """`config` with the new limits; `plan` sets the number of steps if it is open."""
        return TrainConfig.from_mapping({**config.to_mapping(), **dict.fromkeys(self.dropped)})

    def remembered(self, info: RunInfo) -> RunInfo:
        """`info` with the settings given now, so that the next resume knows them."""
        kept = {name: value for name, value in info.given.items() if name not in self.dropped}
        return replace(info, given={**kept, **self.given})

    def plan(self, trainer: Trainer) -> Decision:
        """The new end of the run, as if it had had these limits from its start.

        SettingError where nothing would be trained although the limits do not end the run here.
        """
        step, seconds = trainer.step, max(trainer.clock.seconds, 1e-3)
        budget, max_steps = trainer.config.budget, self.given.get("max_steps")
        limit = steps_limit(trainer, max_steps if isinstance(max_steps, int) else None)
        fits = round(step * budget / seconds) if budget else math.inf
        end = min(fits, limit)
        if end == math.inf:
            raise SettingError("no limit of the run is left", fix="--max-steps N or --budget 10m")
        is_end_given = limit == step and bool({"max_steps", "max_epochs"} & set(self.changed))
        if end < step or (end == step and not is_end_given):
            raise self._without_effect(trainer, step, seconds, fits <= limit)
        return Decision(0, max(int(end), 1), trainer.config.eval_interval or int(end))

    def _without_effect(
        self, trainer: Trainer, step: int, seconds: float, is_budget: bool
    ) -> SettingError:
        name, config = trainer.run.name, trainer.config
        if is_budget:
            return SettingError(
                f"run {name} has trained for {seconds:.0f} s, got a budget of {config.budget:g} s",
                fix=f"--budget {math.ceil(seconds) + 1}s or more",
            )
        if steps_of_epochs(trainer) <= step:
            epochs = epochs_of_steps(trainer, step)
            return SettingError(
                f"run {name} has read its text {epochs:.3g} times, "
                f"and max_epochs {config.max_epochs:.3g} ends it",
                fix=f"--max-epochs {math.ceil(epochs) + 1} or more, or train a new run",
            )
        return SettingError(
            f"run {name} has done {step} steps, got max_steps {self.given.get('max_steps')}",
            fix=f"use --max-steps {step + 1} or more, or train a new run",
        )


def refuse_without_effect(
    trainer: Trainer, info: RunInfo, given: ExplicitSettings, limits: NewLimits
) -> None:
    """SettingError for changed settings of a run that is finished: nothing would be trained."""
    known = info.training.to_mapping()
    changed = [name for name in given if name in known and given[name] != known[name]]
    changed = [name for name in changed if not is_as_given(info, name, given[name])]
    is_finished = trainer.step == trainer.config.max_steps or trainer.is_out_of_patience
    if is_finished and changed and not limits.changed:
        raise SettingError(
            f"run {trainer.run.name} is finished: {', '.join(changed)} would change nothing",
            fix=f"also give --max-steps {trainer.step + 1} or more, or a longer --budget",
        )
