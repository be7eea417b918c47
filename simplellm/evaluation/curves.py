"""Training and held-out loss over a run, and what they tell. Without torch: the screen imports it for every command."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MOST_POINTS = 2048  # of a training loss curve; from there on neighbours are averaged
OVERFITTING_SHARE = (
    0.02  # held-out loss over its best, as a share of it, that is more than noise (guess)
)
OVERFITTING_EVALUATIONS = 2  # in a row
Point = tuple[int, float]  # step, loss


@dataclass
class LossCurves:
    """Training and held-out loss by step, as the records of a run tell them; as small for long runs as for short ones."""

    train: list[Point] = field(default_factory=list)
    held_out: list[Point] = field(default_factory=list)

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]]) -> LossCurves:
        curves = cls()
        for record in records:
            curves.add(record)
        return curves

    def add(self, record: Mapping[str, Any]) -> None:
        """Take in a record of a step or of an evaluation; others, and losses that are no number, are passed over."""
        curve = {"step": self.train, "evaluation": self.held_out}.get(str(record.get("kind")))
        loss = record.get("loss")
        if curve is None or not isinstance(loss, (int, float)) or not math.isfinite(loss):
            return
        curve.append((int(record["step"]), float(loss)))
        if len(self.train) > MOST_POINTS:
            pairs = zip(self.train[::2], self.train[1::2], strict=False)
            self.train[: len(self.train) // 2 * 2] = [
                ((i + j) // 2, (a + b) / 2) for (i, a), (j, b) in pairs
            ]

    @property
    def best(self) -> Point | None:
        return min(self.held_out, key=lambda point: point[1], default=None)


def overfitting_since(curves: LossCurves) -> int | None:
    """The step of the best held-out loss, when the model has begun to learn its text by heart since; else None.

    That is: the last two evaluations are well above the best, and training loss is lower than it was then.
    """
    if curves.best is None or len(curves.held_out) <= OVERFITTING_EVALUATIONS:
        return None
    best_step, best = curves.best
    if any(
        loss <= best * (1 + OVERFITTING_SHARE)
        for _, loss in curves.held_out[-OVERFITTING_EVALUATIONS:]
    ):
        return None
    steps = [step for step, _ in curves.held_out]
    then = _mean_loss(
        curves.train, max((step for step in steps if step < best_step), default=0), best_step
    )
    now = _mean_loss(curves.train, steps[-2], steps[-1])
    return best_step if now < then else None


def _mean_loss(curve: Sequence[Point], after: int, until: int) -> float:
    """Mean loss of the steps in (after, until]; the last one known by then where there is none; NaN where nothing is."""
    known = [(step, loss) for step, loss in curve if step <= until]
    losses = [loss for step, loss in known if step > after] or [loss for _, loss in known[-1:]]
    return sum(losses) / len(losses) if losses else math.nan
