"""Loss curves, and when a run counts as overfitting."""

from __future__ import annotations

import math

import pytest

from simplellm.evaluation.curves import MAX_POINTS, LossCurves, overfitting_since


def records(validation: list[float], train: list[float]):
    """An evaluation every 10 steps, with a logged step before it."""
    for number, (val, loss) in enumerate(zip(validation, train, strict=True), 1):
        yield {"kind": "step", "step": 10 * number, "loss": loss}
        yield {"kind": "evaluation", "step": 10 * number, "loss": val}


@pytest.mark.parametrize(
    ("validation", "train", "since"),
    [
        ([4.0, 3.0, 3.2, 3.3], [4.0, 3.0, 2.5, 2.0], 20),
        ([4.0, 3.0, 3.2, 3.02], [4.0, 3.0, 2.5, 2.0], None),  # the last is within 2%
        ([4.0, 3.0, 3.3], [4.0, 3.0, 2.0], None),  # one evaluation may be noise
        (
            [4.0, 3.0, 3.2, 3.3],
            [4.0, 3.0, 3.1, 3.2],
            None,
        ),  # the training loss rises too: not overfitting
        ([4.0, 3.0, 2.9, 2.8], [4.0, 3.0, 2.5, 2.0], None),
        ([3.0, 3.2, 3.4], [4.0, 3.0, 2.0], 10),
        ([], [], None),
        ([math.nan, 3.0], [4.0, math.nan], None),
    ],
)
def test_overfitting_needs_two_high_validation_losses_and_a_lower_training_loss(
    validation, train, since
):
    assert overfitting_since(LossCurves.of(records(validation, train))) == since


def test_the_best_checkpoint_is_the_one_that_the_log_marks() -> None:
    curves = LossCurves()
    for step, loss, best in ((10, 3.0, True), (20, 3.5, True), (30, 4.0, False)):
        curves.add({"kind": "evaluation", "step": step, "loss": loss, "best": best,
                    "accuracy": 0.2, "train_accuracy": 0.5 + step / 100})  # fmt: skip
    assert curves.best == (20, 3.5) and curves.lowest == (10, 3.0)
    assert curves.accuracies == (0.2, 0.8)


def test_overfitting_is_found_with_few_logged_steps():
    curves = LossCurves([(5, 4.0), (25, 2.0)], [(10, 3.0), (20, 3.2), (30, 3.4)])
    assert overfitting_since(curves) == 10
    assert overfitting_since(LossCurves([], [(10, 3.0), (20, 3.2), (30, 3.4)])) is None


def test_the_curve_of_a_long_run_is_averaged_to_a_bounded_size():
    curves = LossCurves.of(
        {"kind": "step", "step": step, "loss": 100_000 - step} for step in range(100_001)
    )
    assert len(curves.train) <= MAX_POINTS and curves.train == sorted(curves.train)
    assert curves.train[-1][0] >= 99_000 and all(
        abs(100_000 - step - loss) < 200 for step, loss in curves.train
    )


def test_other_records_are_ignored():
    assert (
        LossCurves.of([{"kind": "early_stop", "step": 3}, {"step": 1}, {"kind": "step", "step": 1}])
        == LossCurves()
    )
