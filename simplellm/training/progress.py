"""Progress of a run: its steps, its evaluations and its best checkpoint, saved with its state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from simplellm.checkpoint.pointers import Figures, check_best, is_better
from simplellm.model.scoring import Evaluation


@dataclass(frozen=True)
class Score:
    """The evaluation of the weights after `step`; None where they were not evaluated."""

    step: int
    evaluation: Evaluation | None = None

    @property
    def loss(self) -> float:
        return self.evaluation.loss if self.evaluation else float("inf")

    def is_better_than(self, other: Score) -> bool:
        """See `pointers.is_better`; without an evaluation a score is never better."""
        if self.evaluation is None or other.evaluation is None:
            return self.evaluation is not None
        return is_better(self.to_mapping(), other.to_mapping())

    def to_mapping(self) -> Figures:
        """As in best.json and in the log."""
        if self.evaluation is None:
            return {"step": self.step}
        return {"step": self.step, "val_loss": self.loss, **self.evaluation.to_mapping()}

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Score:
        """The inverse of `to_mapping`; an incomplete evaluation counts as none."""
        names = ("tokens", "bytes", "val_loss", "accuracy")
        if any(name not in values for name in names):
            return cls(values["step"])
        evaluation = Evaluation(*(values[name] for name in names))
        trained = values.get("train_accuracy")
        return cls(values["step"], replace(evaluation, train_accuracy=trained))


@dataclass
class Progress:
    """How far a run is. Costs are in units of the time of a step; 0 where they are unknown."""

    step: int = 0
    saved_step: int = 0  # of the newest checkpoint
    evaluated_step: int = 0  # of the last evaluation that was due
    best: Score | None = None  # among evaluations whose checkpoint was saved
    last: Score | None = None  # newest one, saved or not
    last_counts: bool = True  # whether `last` may become `best` and counts for patience
    evaluations_without_best: int = 0  # in a row
    evaluation_steps: float = 0.0  # cost of an evaluation
    pause_steps: float = 0.0  # cost of an evaluation with its sample and its save
    skipped_steps: int = 0  # fp16 overflows in a row
    overflows: int = 0  # all fp16 overflows

    def record(self, score: Score, is_best: bool) -> None:
        """Take over an evaluation that was due."""
        self.last = score
        self.last_counts = True
        self.evaluated_step = score.step
        self.evaluations_without_best = 0 if is_best else self.evaluations_without_best + 1

    def to_mapping(self) -> Figures:
        """What a resumed run needs, as in training/state.json."""
        return {
            "step": self.step,
            "best": self.best.to_mapping() if self.best else None,
            "evaluations_without_best": self.evaluations_without_best,
            "evaluated_step": self.evaluated_step,
            "evaluation_steps": self.evaluation_steps,
            "pause_steps": self.pause_steps,
            "skipped_steps": self.skipped_steps,
            "overflows": self.overflows,
        }

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], eval_interval: int) -> Progress:
        """The inverse of `to_mapping`; KeyError, TypeError or ValueError where it is damaged.

        eval_interval: of the run, for states of earlier versions, which lack some values.
        """
        step = int(values["step"])
        return cls(
            step=step,
            saved_step=step,
            evaluated_step=int(values.get("evaluated_step", step - step % eval_interval)),
            best=Score.from_mapping(check_best(step, values["best"])) if values["best"] else None,
            evaluations_without_best=int(values["evaluations_without_best"]),
            evaluation_steps=float(values.get("evaluation_steps", 0.0)),
            pause_steps=float(values.get("pause_steps", 0.0)),
            skipped_steps=int(values["skipped_steps"]),
            overflows=int(values.get("overflows", 0)),
        )
