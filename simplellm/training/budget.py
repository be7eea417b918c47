"""Keeps a run within its time budget: decides, while it trains, when it ends.

Before the decay of the learning rate nothing depends on how many steps follow. So the number of
steps is not fixed when the run is planned, when a busy machine may have disturbed the measurement.
It follows, from step to step, from the time that is left and the current duration of a step. Where
it differs from the plan, a new decision is made and recorded in run.json. A resumed run repeats the
recorded decisions at their steps, and then makes its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from simplellm.config.training import TrainConfig
from simplellm.errors import CheckpointError
from simplellm.storage.json_files import JsonObject
from simplellm.training.distributed import any_of, from_main
from simplellm.training.result import Result
from simplellm.training.run_info import RunInfo
from simplellm.training.schedule import CONSTANT_SHARE, Decision
from simplellm.training.step_limits import Limits
from simplellm.training.trainer import RECENT_SECONDS, Trainer

PLANNED_SHARE = 0.98  # of the budget
REPORT_SECONDS = 1.0  # of the final report on a quiet machine (measured, 1 MB of text),
REPORT_SHARE = 0.02  # and at most this share of the budget: short budgets have small texts
MAX_SLOWDOWN = 3.0  # of the report on a busy machine (guess)
PAUSE_MARGIN = 1.05  # factor on the measured cost of evaluations,
BUSY_MARGIN = 0.2  # plus this times the slowdown: evaluations slow down more than steps (measured)
TOLERANCE = 0.02  # of the budget: difference of the predicted end that causes a new decision
MIN_DISTANCE = 0.01  # of the budget, between two decisions
# Steps whose mean duration counts as the current one: those of this share of the budget, at most of
# so many seconds, and at most of this share of the time left, so that the end is precise.
WINDOW = 0.15
MAX_WINDOW_SECONDS = 60.0
WINDOW_LEFT = 0.5
SECOND_LOOK_SHARE = 0.04  # of the budget, after which the speed of the machine is measured again
DECAY_GRACE = 0.05  # of the budget, for a decay that is not done when time is up (suspensions)
EVALUATIONS_PER_RUN = 20
EVALUATION_TIME_SHARE = 0.05  # of the time of the steps, at most
SAVE_TIME_SHARE = 0.025  # likewise; 3% are promised, and some saves take longer than others
PAUSE_SHARE = EVALUATION_TIME_SHARE + SAVE_TIME_SHARE
Record = Callable[[Sequence[Decision]], None]


@dataclass(frozen=True)
class RecordedDecisions:
    """The decisions of a run, and the step until which no other one is made."""

    decisions: tuple[Decision, ...] = ()
    decided_until: int = 0

    def until(self, step: int) -> list[Decision]:
        return [decision for decision in self.decisions if decision.step <= step]

    def after(self, step: int) -> RecordedDecisions:
        """The decisions about steps that are not yet done."""
        later = tuple(decision for decision in self.decisions if decision.step > step)
        return replace(self, decisions=later)

    def facts(self) -> JsonObject:
        """As in run.json; empty for a run without decisions."""
        if not self.decisions:
            return {}
        mappings = [decision.to_mapping() for decision in self.decisions]
        return {"decisions": mappings, "decided_until": self.decided_until}


class BudgetController:
    """Called after each step of a trainer; makes decisions and passes all of them to `record`.

    recorded: decisions of an earlier process about steps to come.
    """

    def __init__(
        self, limits: Limits, record: Record, recorded: RecordedDecisions | None = None
    ) -> None:
        recorded = recorded or RecordedDecisions()
        self._limits = limits
        self._record = record
        self._recorded = list(recorded.decisions)
        self._decided_until = recorded.decided_until
        self._decided_at = 0.0  # seconds on the clock of the run

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
        """The new number of steps where it differs enough from the decided one; else 0."""
        budget, clock, planned = trainer.config.budget, trainer.clock, trainer.config.max_steps
        assert budget is not None and planned is not None
        slowdown = min(clock.slowdown(RECENT_SECONDS), MAX_SLOWDOWN)
        report_seconds = min(REPORT_SECONDS, REPORT_SHARE * budget) * slowdown
        left = budget * PLANNED_SHARE - clock.seconds - report_seconds
        window = min(WINDOW * budget, MAX_WINDOW_SECONDS, WINDOW_LEFT * left)
        step_seconds = clock.step_seconds(window)
        if step_seconds is None:
            return 0
        is_recent = clock.seconds - self._decided_at < MIN_DISTANCE * budget
        if is_recent and (planned - trainer.step) * step_seconds > MIN_DISTANCE * budget:
            return 0
        steps_left = left / step_seconds - self._final_cost(trainer, slowdown)
        steps_left /= 1 + self._pauses_per_step(trainer) * trainer.progress.pause_steps
        grace = DECAY_GRACE * budget * _rate_to_decay(trainer) / step_seconds
        steps_left = max(steps_left, grace, 0.0)
        wanted = max(int(min(trainer.step + steps_left, self._limits.max_steps)), trainer.step)
        return wanted if abs(wanted - planned) * step_seconds > TOLERANCE * budget else 0

    def _final_cost(self, trainer: Trainer, slowdown: float) -> float:
        """Cost of the evaluation and the save at the last step, in steps.

        In units of steps, because a busy machine slows down both. This evaluation reads more text.
        """
        more = max(final_share(trainer) - 1, 0) * trainer.progress.evaluation_steps
        margin = PAUSE_MARGIN + BUSY_MARGIN * (slowdown - 1)
        return margin * (trainer.progress.pause_steps + more)

    def _pauses_per_step(self, trainer: Trainer) -> float:
        """Evaluations per step, as decided now or as few as the next decision would make them."""
        now = 1 / trainer.decisions[-1].eval_interval
        if self._limits.eval_interval:
            return now
        return min(now, PAUSE_SHARE / max(trainer.progress.pause_steps, 1e-9))

    def _interval(self, trainer: Trainer, max_steps: int) -> int:
        costs = [(PAUSE_SHARE, trainer.progress.pause_steps)]
        return self._limits.eval_interval or eval_interval(max_steps, costs)


def train_within_budget(
    trainer: Trainer,
    limits: Limits,
    second_look: Callable[[Trainer], None] | None = None,
    recorded: RecordedDecisions | None = None,
) -> Result:
    """Train to the end; where there is a budget, decide during training when that is.

    second_look: called once, soon after the start and before anything is saved.
    """
    budget = trainer.config.budget
    if budget is None:
        return trainer.train()
    recorded = recorded or RecordedDecisions()

    def record(decisions: Sequence[Decision]) -> None:
        facts = RecordedDecisions(tuple(decisions), trainer.step).facts()
        trainer.output.saver.amend_info(training=trainer.config.to_mapping(), **facts)

    controller = BudgetController(limits, record, recorded)
    looks = [second_look] if second_look else []

    def after_step(trainer: Trainer) -> None:
        is_due = trainer.clock.seconds > trainer.clock.before + SECOND_LOOK_SHARE * budget
        # Clocks of ranks differ: all look at the same step.
        if looks and any_of(is_due, trainer.world, trainer.device):
            look = looks.pop()
            if not trainer.progress.saved_step:
                look(trainer)
        controller(trainer)

    trainer.after_step = after_step
    result = trainer.train()
    if not result.stopped and trainer.step > recorded.decided_until:
        # The end is final: a resume from an earlier checkpoint makes no other decision.
        record(trainer.decisions)
    return result


def recorded_decisions(
    name: str, info: RunInfo, figures: Mapping[str, Any], config: TrainConfig
) -> RecordedDecisions:
    """The decisions of the run `name`, also those about steps to come.

    They come from run.json, or from the checkpoint's state `figures` where run.json could not be
    written. None without a budget, and for runs of early versions. CheckpointError where they are
    damaged.
    """
    if config.budget is None:
        return RecordedDecisions()
    try:
        recorded = _read_decisions(info, figures)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"the recorded decisions of {name} are damaged: {error}") from error
    interval = config.eval_interval
    if interval and interval != info.training.eval_interval:
        decisions = recorded.decisions
        changed = tuple(replace(decision, eval_interval=interval) for decision in decisions)
        recorded = replace(recorded, decisions=changed)
    return recorded


def decisions_in(info: RunInfo) -> RecordedDecisions:
    """The decisions in a run.json; KeyError, TypeError or ValueError where they are damaged."""
    return _read_decisions(info, {})


def _read_decisions(info: RunInfo, figures: Mapping[str, Any]) -> RecordedDecisions:
    saved = [Decision.from_mapping(values) for values in figures.get("decisions", [])]
    kept = [Decision.from_mapping(values) for values in info.facts.get("decisions", [])]
    decisions = saved if saved[: len(kept)] == kept else kept
    if decisions and decisions[0].step:
        raise ValueError("the first one is missing")
    return RecordedDecisions(tuple(decisions), int(info.facts.get("decided_until", 0)))


def _rate_to_decay(trainer: Trainer) -> float:
    """Share of the peak rate that has yet to decay; 0 for a schedule without a decay."""
    if CONSTANT_SHARE.get(trainer.config.schedule) == 1.0:
        return 0.0
    return trainer.rate_factor - trainer.config.min_lr_ratio


def final_share(trainer: Trainer) -> float:
    """Cost of scoring the best checkpoint at the end, in evaluations; 0 where that adds no text."""
    tokens, eval_tokens = trainer.validation.final_tokens, trainer.config.eval_tokens
    return tokens / eval_tokens if tokens > eval_tokens else 0.0


def eval_interval(max_steps: int, costs: Sequence[tuple[float, float]]) -> int:
    """Steps between evaluations: about 20 in a run, fewer where they would take too long.

    costs: pairs of a share of the run's time, and the cost in steps that each evaluation may take
    of it.
    """
    most = min(share * max_steps / max(steps, 1e-3) for share, steps in costs)
    return max(math.ceil(max_steps / max(min(EVALUATIONS_PER_RUN, most), 1)), 1)
