"""Loss curves of a run, and overfitting. Imports no torch: every command imports this module."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from simplellm.storage.json_files import JsonMapping

MAX_POINTS = 2048  # of a training loss curve; beyond, pairs of neighbors are averaged
OVERFITTING_MARGIN = 0.02  # relative rise above the best validation loss beyond noise (guess)
OVERFITTING_EVALUATIONS = 2  # consecutive evaluations above the margin
Point = tuple[int, float]  # step, loss


@dataclass
class LossCurves:
    """Training and validation loss by step, from the records of a run; of bounded size.

    accuracies: of the newest evaluation of conversations, on held-out replies and on training
    replies; None for texts.
    """

    train: list[Point] = field(default_factory=list)
    validation: list[Point] = field(default_factory=list)
    accuracies: tuple[float, float] | None = None
    _best: Point | None = None

    @classmethod
    def of(cls, records: Iterable[JsonMapping]) -> LossCurves:
        curves = cls()
        for record in records:
            curves.add(record)
        return curves

    def add(self, record: JsonMapping) -> None:
        """Add the loss of a step or an evaluation; ignore other records and non-finite losses."""
        curve = {"step": self.train, "evaluation": self.validation}.get(str(record.get("kind")))
        loss = record.get("loss")
        if curve is None or not isinstance(loss, (int, float)) or not math.isfinite(loss):
            return
        curve.append((int(record["step"]), float(loss)))
        if record.get("best"):
            self._best = curve[-1]
        if "train_accuracy" in record:
            self.accuracies = record["accuracy"], record["train_accuracy"]
        if len(self.train) > MAX_POINTS:
            pairs = zip(self.train[::2], self.train[1::2], strict=False)
            self.train[: len(self.train) // 2 * 2] = [
                ((i + j) // 2, (a + b) / 2) for (i, a), (j, b) in pairs
            ]

    @property
    def best(self) -> Point | None:
        """Of the best checkpoint; of conversations it need not have the lowest loss."""
        return self._best or self.lowest

    @property
    def lowest(self) -> Point | None:
        return min(self.validation, key=lambda point: point[1], default=None)


def overfitting_since(curves: LossCurves) -> int | None:
    """The step of the lowest validation loss if the model overfits since then; else None.

    Overfitting: the last evaluations are above the lowest by OVERFITTING_MARGIN, and the training
    loss is lower than it was there.
    """
    if curves.lowest is None or len(curves.validation) <= OVERFITTING_EVALUATIONS:
        return None
    best_step, best = curves.lowest
    if any(
        loss <= best * (1 + OVERFITTING_MARGIN)
        for _, loss in curves.validation[-OVERFITTING_EVALUATIONS:]
    ):
        return None
    steps = [step for step, _ in curves.validation]
    then = _mean_loss(
        curves.train, max((step for step in steps if step < best_step), default=0), best_step
    )
    now = _mean_loss(curves.train, steps[-2], steps[-1])
    return best_step if now < then else None


def _mean_loss(curve: Sequence[Point], after: int, until: int) -> float:
    """Mean loss of the steps in (after, until]; without any, the last loss before; else NaN."""
    known = [(step, loss) for step, loss in curve if step <= until]
    losses = [loss for step, loss in known if step > after] or [loss for _, loss in known[-1:]]
    return sum(losses) / len(losses) if losses else math.nan
