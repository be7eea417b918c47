"""The setting `overfit` lets a model memorise its text, to show overfitting."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import digests, training_context

from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.run_log import read_log
from simplellm.config.recipe import OVERFIT, choose
from simplellm.errors import SettingError
from simplellm.evaluation.curves import LossCurves, overfitting_since
from simplellm.training.resume import resume
from simplellm.training.sources import Sources
from simplellm.training.start import start

SHAPE = {
    "n_layer": 1, "n_head": 2, "n_embd": 32, "block_size": 32, "vocab_size": 300, "batch_size": 8,
    "log_interval": 1, "precision": "float32", "overfit": True,
}  # fmt: skip


def train(folder: Path, story: str, name: str, stop_after: int | None = None, **given) -> RunFolder:
    text = folder / "text.txt"
    text.write_text(story[:2000])
    context = training_context(folder, stop_after)
    start(Sources((str(text),)), {**SHAPE, **given}, name, context)
    return RunFolder(folder / name)


def test_the_training_loss_falls_far_below_the_validation_loss(tmp_path, story):
    run = train(tmp_path, story, "run", max_steps=120, eval_interval=20, learning_rate=1e-2)
    curves = LossCurves.of(read_log(run.log_path))
    assert curves.train[-1][1] < 1.0 and curves.validation[-1][1] > 2.5
    assert overfitting_since(curves) is not None
    assert run.read_info()["training"]["overfit"] is True


def test_without_it_the_recipe_keeps_the_losses_together(tmp_path, story):
    run = train(
        tmp_path, story, "run", max_steps=120, eval_interval=20, learning_rate=1e-2, overfit=False
    )
    curves = LossCurves.of(read_log(run.log_path))
    assert curves.train[-1][1] > 1.5 and overfitting_since(curves) is None


@pytest.mark.parametrize("train_bytes", [3_000, 1_000_000, 10_000_000])
@pytest.mark.parametrize("given", [{}, {"architecture": "gpt2"}, {"optimizer": "adamw"}])
def test_all_regularization_is_off_except_what_is_given(train_bytes, given):
    model, training = choose(train_bytes, {**given, "overfit": True, "budget": 1000.0})
    chosen = {**model.to_mapping(), **training.to_mapping()}
    assert {name: chosen[name] for name in OVERFIT} == OVERFIT
    model, training = choose(train_bytes, {"overfit": True, "dropout": 0.1, "patience": 3})
    assert (model.dropout, training.patience, training.weight_decay) == (0.1, 3, 0.0)


def test_it_is_kept_when_a_run_is_resumed_and_cannot_be_added_then(tmp_path, story):
    whole = train(tmp_path, story, "whole", max_steps=4)
    cut = train(tmp_path, story, "cut", stop_after=2, max_steps=4)
    resume(cut, {"overfit": True}, training_context(tmp_path))
    assert digests(cut) == digests(whole)
    plain = train(tmp_path, story, "plain", stop_after=2, max_steps=4, overfit=False)
    with pytest.raises(SettingError, match="started with overfit off, got on"):
        resume(plain, {"overfit": True}, training_context(tmp_path), accept_changes=True)


def test_a_fine_tuned_model_overfits_too(tmp_path, story):
    base = train(tmp_path, story, "base", max_steps=2, overfit=False)
    assert RunFolder(base.path).read_info()["model"]["dropout"] > 0
    context = training_context(tmp_path)
    given = {"overfit": True, "max_steps": 1}
    start(Sources((str(tmp_path / "text.txt"),)), given, "tuned", context, base.last())
    info = RunFolder(tmp_path / "tuned").read_info()
    assert info["model"]["dropout"] == 0 and info["training"]["r_drop"] == 0
