"""Overfitting is said when it is there, and only then."""

from __future__ import annotations

import math

import pytest

from simplellm.evaluation.curves import MOST_POINTS, LossCurves, overfitting_since


def records(held_out: list[float], train: list[float]):
    """An evaluation every 10 steps, with a logged step before it."""
    for number, (val, loss) in enumerate(zip(held_out, train, strict=True), 1):
        yield {"kind": "step", "step": 10 * number, "loss": loss}
        yield {"kind": "evaluation", "step": 10 * number, "loss": val}


@pytest.mark.parametrize(
    ("held_out", "train", "since"),
    [
        ([4.0, 3.0, 3.2, 3.3], [4.0, 3.0, 2.5, 2.0], 20),
        ([4.0, 3.0, 3.2, 3.02], [4.0, 3.0, 2.5, 2.0], None),  # the last is within 2%
        ([4.0, 3.0, 3.3], [4.0, 3.0, 2.0], None),  # one evaluation may be noise
        (
            [4.0, 3.0, 3.2, 3.3],
            [4.0, 3.0, 3.1, 3.2],
            None,
        ),  # training goes wrong as well: that is no learning by heart
        ([4.0, 3.0, 2.9, 2.8], [4.0, 3.0, 2.5, 2.0], None),
        ([3.0, 3.2, 3.4], [4.0, 3.0, 2.0], 10),
        ([], [], None),
        ([math.nan, 3.0], [4.0, math.nan], None),
    ],
)
def test_overfitting_is_held_out_loss_well_over_its_best_twice_while_training_loss_fell(
    held_out, train, since
):
    assert overfitting_since(LossCurves.of(records(held_out, train))) == since


def test_steps_that_were_not_logged_do_not_hide_it():
    curves = LossCurves([(5, 4.0), (25, 2.0)], [(10, 3.0), (20, 3.2), (30, 3.4)])
    assert overfitting_since(curves) == 10
    assert overfitting_since(LossCurves([], [(10, 3.0), (20, 3.2), (30, 3.4)])) is None


def test_a_long_run_is_kept_small_and_true():
    curves = LossCurves.of(
        {"kind": "step", "step": step, "loss": 100_000 - step} for step in range(100_001)
    )
    assert len(curves.train) <= MOST_POINTS and curves.train == sorted(curves.train)
    assert curves.train[-1][0] >= 99_000 and all(
        abs(100_000 - step - loss) < 200 for step, loss in curves.train
    )


def test_other_records_are_passed_over():
    assert (
        LossCurves.of([{"kind": "early_stop", "step": 3}, {"step": 1}, {"kind": "step", "step": 1}])
        == LossCurves()
    )
