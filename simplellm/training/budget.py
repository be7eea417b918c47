"""Keeps a run within its time budget: decides, while it goes on, when it ends.

Nothing before the decay of the learning rate depends on how many steps follow. So the number of steps is not fixed
when the run is planned, when a busy machine may have disturbed the measurement, but followed from step to step: the
time that is left, divided by what a step takes now. Where that differs from the plan, a new decision is taken and
recorded in run.json. A resumed run repeats the recorded decisions at their steps, and then makes its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from simplellm.config.training import TrainConfig
from simplellm.errors import CheckpointError
from simplellm.training.distributed import any_of, from_main
from simplellm.training.result import Result
from simplellm.training.schedule import CONSTANT_SHARE, Decision
from simplellm.training.trainer import RECENT_SECONDS, Trainer

PLANNED_SHARE = 0.98  # of the budget
REPORT_SECONDS = (
    1.0  # that the report at the end takes on a quiet machine (measured, 1 MB of text),
)
REPORT_SHARE = 0.02  # and at most this share of the budget: a short one is of a small text
MOST_SLOWDOWN = 3.0  # of the report on a busy one (guess)
PAUSE_MARGIN = 1.05  # times the measured cost of evaluations,
BUSY_MARGIN = (
    0.2  # and more for each time as slow: evaluations slow down more than steps (measured)
)
TOLERANCE = 0.02  # of the budget: the predicted end may be off by so much before it is decided anew
LEAST_DISTANCE = 0.01  # of the budget, between two decisions
WINDOW = 0.15  # of the budget: the speed of the steps is averaged over so long,
LONGEST_WINDOW = 60.0  # at most over so many seconds,
WINDOW_LEFT = 0.5  # and at most this share of the time that is left: towards the end what a step takes now decides
SECOND_LOOK_SHARE = (
    0.04  # of the budget, after which the machine is looked at again, before anything is saved
)
DECAY_GRACE = (
    0.05  # of the budget, for a decay that has yet to begin when time is up, as after a suspension
)
EVALUATIONS_PER_RUN = 20
EVALUATION_TIME_SHARE = 0.05  # evaluating may take this share of the steps' time
SAVE_TIME_SHARE = (
    0.025  # and saving this one: 3% are promised, and some saves take longer than others
)
PAUSE_SHARE = EVALUATION_TIME_SHARE + SAVE_TIME_SHARE
Record = Callable[[Sequence[Decision]], None]


class BudgetController:
    """Called after each step of a trainer; `record` is told all decisions each time there is a new one.

    `most_steps`: a limit that time cannot raise. `recorded`: decisions of an earlier process about steps to come;
    until the step `decided_until` nothing else is decided.
    """

    def __init__(
        self,
        most_steps: float,
        record: Record,
        recorded: Sequence[Decision] = (),
        decided_until: int = 0,
        eval_interval: int | None = None,
    ) -> None:
        self._most_steps, self._record, self._eval_interval = most_steps, record, eval_interval
        self._recorded, self._decided_until = list(recorded), decided_until
        self._decided_at = 0.0  # on the clock of the run

    def __call__(self, trainer: Trainer) -> None:
        if self._recorded and self._recorded[0].step <= trainer.step:
            trainer.take(self._recorded.pop(0))
        if trainer.step <= self._decided_until:
            return
        max_steps = int(from_main(self._max_steps(trainer), trainer.world, trainer.device))
        if not max_steps:
            return
        interval = int(from_main(self._interval(trainer, max_steps), trainer.world, trainer.device))
        trainer.take(Decision(trainer.step, max_steps, interval))
        self._decided_at = trainer.clock.seconds
        self._record(trainer.decisions)

    def _max_steps(self, trainer: Trainer) -> int:
        """The number of steps the run is to have, where that differs from what was decided; else 0."""
        budget, clock, planned = trainer.config.budget, trainer.clock, trainer.config.max_steps
        assert budget is not None and planned is not None
        slowdown = min(clock.slowdown(RECENT_SECONDS), MOST_SLOWDOWN)
        left = (
            budget * PLANNED_SHARE
            - clock.seconds
            - min(REPORT_SECONDS, REPORT_SHARE * budget) * slowdown
        )
        step_seconds = clock.step_seconds(min(WINDOW * budget, LONGEST_WINDOW, WINDOW_LEFT * left))
        if step_seconds is None:
            return 0
        is_recent = clock.seconds - self._decided_at < LEAST_DISTANCE * budget
        if is_recent and (planned - trainer.step) * step_seconds > LEAST_DISTANCE * budget:
            return 0
        # In units of steps, since a busy machine slows both alike: the evaluation at the last step, on more text than those
        # before it.
        pauses = (
            trainer.progress.pause_steps
            + max(final_share(trainer) - 1, 0) * trainer.progress.evaluation_steps
        )
        steps_left = left / step_seconds - (PAUSE_MARGIN + BUSY_MARGIN * (slowdown - 1)) * pauses
        steps_left /= 1 + self._pauses_per_step(trainer) * trainer.progress.pause_steps
        steps_left = max(steps_left, DECAY_GRACE * budget * _rate_left(trainer) / step_seconds, 0.0)
        wanted = max(int(min(trainer.step + steps_left, self._most_steps)), trainer.step)
        return wanted if abs(wanted - planned) * step_seconds > TOLERANCE * budget else 0

    def _pauses_per_step(self, trainer: Trainer) -> float:
        """Evaluations per step, as they are or as few as the next decision would make them."""
        now = 1 / trainer.decisions[-1].eval_interval
        return (
            now
            if self._eval_interval
            else min(now, PAUSE_SHARE / max(trainer.progress.pause_steps, 1e-9))
        )

    def _interval(self, trainer: Trainer, max_steps: int) -> int:
        return self._eval_interval or eval_interval(
            max_steps, [(PAUSE_SHARE, trainer.progress.pause_steps)]
        )


def train_within_budget(
    trainer: Trainer,
    given: Mapping[str, Any],
    most_steps: float,
    look: Callable[[Trainer], None] | None = None,
    recorded: Sequence[Decision] = (),
    decided_until: int = 0,
) -> Result:
    """Train to the end; where there is a budget, with decisions on the way that run.json keeps.

    `look` is called once, soon after the start and before anything is saved. For the others see `BudgetController`.
    """
    budget = trainer.config.budget
    if budget is None:
        return trainer.train()

    def record(decisions: Sequence[Decision]) -> None:
        trainer.output.saver.amend_info(
            training=trainer.config.to_mapping(),
            decisions=[decision.to_mapping() for decision in decisions],
            decided_until=trainer.step,
        )

    controller = BudgetController(
        most_steps, record, recorded, decided_until, given.get("eval_interval")
    )
    looks = [look] if look else []

    def after_step(trainer: Trainer) -> None:
        is_due = trainer.clock.seconds > trainer.clock.before + SECOND_LOOK_SHARE * budget
        if looks and any_of(
            is_due, trainer.world, trainer.device
        ):  # clocks differ: all ranks look at the same step
            look = looks.pop()
            if not trainer.progress.saved_step:
                look(trainer)
        controller(trainer)

    trainer.after_step = after_step
    result = trainer.train()
    if not result.stopped and trainer.step > decided_until:
        record(
            trainer.decisions
        )  # nothing more is decided, should it be resumed from an earlier checkpoint
    return result


def recorded_decisions(
    name: str, info: Mapping[str, Any], figures: Mapping[str, Any], config: TrainConfig
) -> tuple[list[Decision], int]:
    """The decisions of the run `name`, also those about steps to come, and the step until which nothing else is decided.

    None where the steps are fixed, or where an earlier version of this program trained it.

    They are those of run.json (`info`), or those of the checkpoint (`figures`) where run.json could not be written.
    With another budget than before the run is planned anew, as if it had had that one from the beginning.
    CheckpointError where they are damaged.
    """
    if config.budget is None:
        return [], 0
    try:
        step, seconds = int(figures["step"]), float(figures["seconds"])
        saved = [Decision.from_mapping(values) for values in figures.get("decisions", [])]
        kept = [Decision.from_mapping(values) for values in info.get("decisions", [])]
        decisions = saved if saved[: len(kept)] == kept else kept
        decided_until = int(info.get("decided_until", 0))
        if decisions and decisions[0].step:
            raise ValueError("the first one is missing")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"the recorded decisions of {name} are damaged: {error}") from error
    if decisions and config.budget != info["training"]["budget"]:
        estimate = max(step, round(step * config.budget / max(seconds, 1e-3)), 1)
        decisions, decided_until = [Decision(0, estimate, decisions[0].eval_interval)], 0
    if config.eval_interval != info["training"]["eval_interval"] and config.eval_interval:
        decisions = [
            replace(decision, eval_interval=config.eval_interval) for decision in decisions
        ]
    return decisions, decided_until


def _rate_left(trainer: Trainer) -> float:
    """Share of the peak rate that has yet to decay; 0 for a schedule that does not end low."""
    if CONSTANT_SHARE.get(trainer.config.schedule) == 1.0:
        return 0.0
    return trainer.rate_factor - trainer.config.min_lr_ratio


def final_share(trainer: Trainer) -> float:
    """How many times an evaluation on the way it takes to score the best checkpoint at the end."""
    tokens, eval_tokens = trainer.validation.final_tokens, trainer.config.eval_tokens
    return tokens / eval_tokens if tokens > eval_tokens else 0.0


def eval_interval(max_steps: int, costs: Sequence[tuple[float, float]]) -> int:
    """Steps between evaluations: about 20 in a run, fewer where they would take more than their share.

    `costs`: pairs of a share of the run's time, and what takes it at each evaluation, in the time of so many steps.
    """
    most = min(share * max_steps / max(steps, 1e-3) for share, steps in costs)
    return max(math.ceil(max_steps / max(min(EVALUATIONS_PER_RUN, most), 1)), 1)
