"""Progress of a run: saved and restored without loss, also from states of earlier versions."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from simplellm.model.scoring import Evaluation
from simplellm.training.progress import Progress, Score

EVALUATION = Evaluation(tokens=100, bytes=300, loss=2.5, accuracy=0.25)
PROGRESS = Progress(
    step=9,
    saved_step=9,
    evaluated_step=8,
    best=Score(6, EVALUATION),
    evaluations_without_best=1,
    evaluation_steps=0.5,
    pause_steps=0.7,
    skipped_steps=1,
    overflows=3,
)


def test_progress_survives_a_round_trip_through_json() -> None:
    restored = json.loads(json.dumps(PROGRESS.to_mapping()))
    assert Progress.from_mapping(restored, eval_interval=4) == PROGRESS


def test_a_state_of_an_earlier_version_has_its_last_evaluation_at_the_interval() -> None:
    old = {"step": 9, "best": None, "evaluations_without_best": 0, "skipped_steps": 0}
    progress = Progress.from_mapping(old, eval_interval=4)
    assert (progress.evaluated_step, progress.best, progress.pause_steps) == (8, None, 0.0)


@pytest.mark.parametrize(
    "damage",
    [{"step": "x"}, {"best": 5}, {"best": {"step": 6}}, {"best": {**PROGRESS.to_mapping()}}],
)
def test_a_damaged_state_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Progress.from_mapping({**PROGRESS.to_mapping(), **damage}, eval_interval=4)


def test_a_score_without_an_evaluation_has_its_step_only() -> None:
    assert Score(3).to_mapping() == {"step": 3}
    assert Score.from_mapping({"step": 3, "path": "step-000003"}) == Score(3)
    assert Score.from_mapping(Score(3, EVALUATION).to_mapping()) == Score(3, EVALUATION)


def test_a_score_of_conversations_keeps_the_accuracy_on_training_replies() -> None:
    score = Score(3, replace(EVALUATION, train_accuracy=0.75))
    assert Score.from_mapping(json.loads(json.dumps(score.to_mapping()))) == score
    assert score.is_better_than(Score(2)) and not Score(2).is_better_than(score)


def test_only_an_evaluation_that_is_not_the_best_counts_for_patience() -> None:
    progress = Progress(step=4, last_counts=False)
    for is_best, expected in ((False, 1), (False, 2), (True, 0)):
        progress.record(Score(4, EVALUATION), is_best)
        assert progress.evaluations_without_best == expected
    assert progress.evaluated_step == 4 and progress.last_counts
