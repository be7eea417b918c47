"""No NaN and no infinity reaches the weights or a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from faults.tiny import INTERVAL, STEPS, TINY, digest, go_on, train, training_context
from simplellm.app.cli import main
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.step_folder import load_model
from simplellm.checkpoint.tensors import refuse_non_finite
from simplellm.checkpoint.training_state import TrainingState, load_training_state
from simplellm.errors import CheckpointError, TrainingError
from simplellm.training.trainer import Trainer

BAD = [math.nan, math.inf, -math.inf]
FAULT_STEP = 7  # after the evaluation of step 6


def at_step(step: int, then: Callable[[Trainer], None]) -> Callable[[Trainer, float | None], None]:
    """`Trainer.train_step` that calls `then(trainer)` after step `step` of a saved run."""
    train_step = Trainer.train_step

    def changed(trainer: Trainer, rate: float | None = None) -> None:
        train_step(trainer, rate)
        if trainer.step == step and trainer.run.step_folders():
            then(trainer)

    return changed


def in_loss(trainer: Trainer, value: float) -> None:
    loss = trainer.model.loss
    trainer.model.loss = lambda *arguments: loss(*arguments) + value


def in_gradient(trainer: Trainer, value: float) -> None:
    accumulate = trainer.accumulate_gradients

    def poisoned() -> float:
        loss = accumulate()
        next(iter(trainer.model.parameters())).grad.view(-1)[3] = value
        return loss

    trainer.accumulate_gradients = poisoned


def in_weight(trainer: Trainer, value: float) -> None:
    next(iter(trainer.model.parameters())).data.view(-1)[3] = value


def in_average(trainer: Trainer, value: float) -> None:
    trainer.ema.stored()[0].view(-1)[3] = value


def in_optimizer(trainer: Trainer, value: float) -> None:
    next(
        value for name, value in trainer.optimizer.state().items() if name.endswith("exp_avg_sq")
    ).view(-1)[3] = value


PLACES = {
    "loss": in_loss,
    "gradient": in_gradient,
    "weight": in_weight,
    "average": in_average,
    "optimizer": in_optimizer,
}


@pytest.mark.parametrize("value", [math.nan, pytest.param(math.inf, marks=pytest.mark.slow)])
@pytest.mark.parametrize("place", PLACES)
def test_a_non_finite_number_ends_the_training_before_it_is_saved(
    checkpoints, undisturbed, monkeypatch, place, value
):
    monkeypatch.setattr(
        Trainer, "train_step", at_step(FAULT_STEP, lambda trainer: PLACES[place](trainer, value))
    )
    with pytest.raises(TrainingError) as found:
        train(checkpoints)
    run = RunFolder(checkpoints / "run")
    assert f"the last good checkpoint is {run.path / 'step-000006'}" in found.value.fix
    assert [folder.name for folder in run.step_folders()] == ["step-000006", "step-000003"]
    for folder in run.step_folders():
        refuse_non_finite(
            {
                **load_model(folder, torch.device("cpu"))[0].state_dict(),
                **load_training_state(folder).tensors,
            }
        )
    monkeypatch.undo()
    go_on(checkpoints)
    assert digest(run.last()) == undisturbed


@pytest.mark.parametrize("place", PLACES)
def test_the_command_exits_with_1_and_names_the_last_good_checkpoint(
    checkpoints, monkeypatch, capsys, place
):
    monkeypatch.setattr(
        Trainer, "train_step", at_step(FAULT_STEP, lambda trainer: PLACES[place](trainer, math.nan))
    )
    settings = {**TINY, "max_steps": STEPS, "eval_interval": INTERVAL}
    words = [
        word
        for name, value in settings.items()
        if value is not None
        for word in (f"--{name}".replace("_", "-"), str(value))
    ]
    text = str(checkpoints.parent / "text.txt")
    capsys.readouterr()
    words = [
        "train",
        text,
        "--name",
        "run",
        "--checkpoints",
        str(checkpoints),
        "--device",
        "cpu",
        *words,
    ]
    assert main(words) == 1
    lines = capsys.readouterr().err.splitlines()
    assert (
        lines[-2].startswith("error: step ")
        and lines[-1].startswith("fix: ")
        and "step-000006" in lines[-1]
    )


@pytest.mark.parametrize("value", BAD)
def test_a_save_refuses_non_finite_numbers(checkpoints, value):
    path = Path(train(checkpoints, max_steps=1).path)
    model, tokenizer = load_model(path, torch.device("cpu"))
    state = TrainingState({"step": 2}, {"optimizer/x": torch.tensor([1.0, value, 2.0])})
    with pytest.raises(CheckpointError, match="optimizer/x"):
        RunFolder(path.parent).save(2, model, tokenizer, state, {"val_loss": 1.0}, True)
    assert RunFolder(path.parent).step_folders() == [path]


def test_fp16_overflows_are_counted_saved_and_not_fatal(checkpoints, monkeypatch):
    """As with fp16 on a GPU: a GradScaler, and a gradient that overflows in every fourth step."""

    def with_scaler(trainer: Trainer, *arguments: object, **options: object) -> None:
        init(trainer, *arguments, **options)
        trainer.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def overflowing(trainer: Trainer) -> float:
        loss = accumulate(trainer)
        if trainer.step % 4 == 1:
            next(iter(trainer.model.parameters())).grad.view(-1)[0] = math.inf
        return loss

    init, accumulate = Trainer.__init__, Trainer.accumulate_gradients
    monkeypatch.setattr(Trainer, "__init__", with_scaler)
    monkeypatch.setattr(Trainer, "accumulate_gradients", overflowing)
    train(checkpoints, "whole")
    asked = iter(range(10**9))
    train(checkpoints, context=training_context(checkpoints, should_stop=lambda: next(asked) == 5))
    go_on(checkpoints)
    for name in ("whole", "run"):
        figures = load_training_state(RunFolder(checkpoints / name).last()).figures
        assert (figures["overflows"], figures["skipped_steps"], figures["scaler"]["scale"]) == (
            3,
            0,
            1024 / 8,
        )
    assert digest(RunFolder(checkpoints / "run").last()) == digest(
        RunFolder(checkpoints / "whole").last()
    )
