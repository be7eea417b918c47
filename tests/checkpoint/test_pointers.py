"""Which checkpoint is the best one: by the loss of texts, by the accuracy of replies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simplellm.checkpoint.pointers import is_better, pointer_among

TEXT = {"val_loss": 3.0, "accuracy": 0.3}
KNOWS_NOTHING = {**TEXT, "train_accuracy": 0.35}
KNOWS_REPLIES = {"val_loss": 4.0, "accuracy": 0.29, "train_accuracy": 0.99}


def test_the_best_checkpoint_of_texts_has_the_lowest_loss() -> None:
    assert is_better({**TEXT, "val_loss": 2.9, "accuracy": 0.1}, TEXT)
    assert not is_better({**TEXT, "accuracy": 0.9}, TEXT)


def test_a_checkpoint_that_knows_its_replies_is_better_in_spite_of_its_loss() -> None:
    assert is_better(KNOWS_REPLIES, KNOWS_NOTHING)
    assert not is_better(KNOWS_NOTHING, KNOWS_REPLIES)


def test_replies_that_are_held_out_count_as_much_as_those_of_the_training() -> None:
    forgot = {**KNOWS_REPLIES, "accuracy": 0.2, "train_accuracy": 1.0}
    assert is_better(KNOWS_REPLIES, forgot)


def test_the_loss_decides_between_equal_accuracies() -> None:
    assert is_better({**KNOWS_REPLIES, "val_loss": 3.9}, KNOWS_REPLIES)
    assert not is_better(KNOWS_REPLIES, KNOWS_REPLIES)


def test_an_evaluation_of_an_earlier_version_is_compared_by_its_loss() -> None:
    assert is_better(TEXT, KNOWS_REPLIES) and not is_better(KNOWS_REPLIES, TEXT)


@pytest.mark.parametrize("order", [(10, 20, 30), (30, 20, 10)])
def test_a_lost_pointer_is_made_again_by_the_same_rule(
    order: tuple[int, ...], tmp_path: Path
) -> None:
    evaluations = {10: KNOWS_NOTHING, 20: KNOWS_REPLIES, 30: {**KNOWS_REPLIES, "val_loss": 5.0}}
    folders = [tmp_path / f"step-{step:06}" for step in order]
    for folder, step in zip(folders, order, strict=True):
        (folder / "training").mkdir(parents=True)
        state = {"evaluation": {**evaluations[step], "step": step}}
        (folder / "training" / "state.json").write_text(json.dumps(state))
    newest_first = sorted(folders, reverse=True)
    best = pointer_among(newest_first, "best")
    assert best is not None and best["step"] == 20
