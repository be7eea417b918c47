"""Steps are exact or not taken; evaluations and saves keep the best checkpoint."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import STORY

from simplellm import device as devices
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.step_folder import load_model
from simplellm.config.model import ModelConfig
from simplellm.config.training import TrainConfig
from simplellm.data.corpus import read_corpus
from simplellm.data.prepared_corpus import Prepared, prepare
from simplellm.errors import TrainingError
from simplellm.model.scoring import Evaluation, evaluate
from simplellm.training.context import Output, Runtime
from simplellm.training.initial_model import initial_model
from simplellm.training.plan import plan
from simplellm.training.saver import Saver
from simplellm.training.trainer import Trainer
from simplellm.training.training_data import TrainingData
from simplellm.training.training_step import SKIPPED_STEPS_LIMIT

CPU = torch.device("cpu")
BAD = [math.nan, math.inf, -math.inf]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(
        read_corpus([str(STORY)]), None, 0.1, "bpe", 300, tmp_path_factory.mktemp("prepared")
    )


@pytest.fixture
def make(prepared: Prepared, tmp_path: Path):
    """Builds a trainer of a tiny model; keyword arguments are training settings."""

    def make(
        name: str = "run",
        dropout: float = 0.0,
        precision: str = "float32",
        should_stop=lambda: False,
        **given: Any,
    ):
        model = ModelConfig(
            n_layer=1,
            n_head=2,
            n_embd=16,
            block_size=16,
            vocab_size=prepared.tokenizer.vocab_size,
            dropout=dropout,
        )
        config = TrainConfig(
            **{"max_steps": 6, "batch_size": 4, "eval_interval": 100, "eval_tokens": 64, **given}
        )
        run = RunFolder(tmp_path / name)
        run.write_info({})
        runtime = Runtime(CPU, precision, should_stop=should_stop)
        return Trainer(
            initial_model(model, config, CPU),
            config,
            TrainingData(prepared, 16),
            runtime,
            Output(Saver(run, runtime.world, CPU)),
        )

    return make


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def poison(trainer: Trainer, at_step: int, value: float, only: str = "") -> None:
    """Set gradients to `value` at one step: of weights whose name contains `only`."""
    accumulate = trainer.accumulate_gradients

    def poisoned() -> float:
        loss = accumulate()
        if trainer.step == at_step:
            for name, weight in trainer.model.named_parameters():
                if only in name:
                    weight.grad.view(-1)[0] = value
        return loss

    trainer.accumulate_gradients = poisoned


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_accumulation_of_4_times_2_is_1_times_8(make, optimizer):
    whole = make("whole", batch_size=8, optimizer=optimizer)
    parts = make("parts", batch_size=2, gradient_accumulation=4, optimizer=optimizer)
    losses = [float(trainer.accumulate_gradients()) for trainer in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=2e-6, rtol=1e-4)
    for trainer in (whole, parts):
        trainer.optimizer.zero_grad()
        for _ in range(3):
            trainer.train_step()
    for one, other in zip(weights(whole).values(), weights(parts).values(), strict=True):
        torch.testing.assert_close(one, other, atol=5e-3, rtol=0)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_value_that_is_not_finite_stops_before_the_update(make, monkeypatch, where, value):
    trainer = make(ema_decay=0.9, eval_interval=2)
    if where == "loss":
        loss = trainer.model.loss
        monkeypatch.setattr(
            trainer.model, "loss", lambda *args: loss(*args) + (value if trainer.step == 3 else 0)
        )
    else:
        poison(trainer, 3, value)
    for _ in range(3):
        trainer.train_step()
    trainer.evaluate_and_save()
    before, average, state = (
        weights(trainer),
        [w.clone() for w in trainer.ema.stored()],
        trainer.optimizer.state(),
    )
    state = {name: tensor.clone() for name, tensor in state.items()}
    with pytest.raises(TrainingError) as found:
        trainer.train()
    assert (
        "step 4:" in str(found.value)
        and "loss" in str(found.value)
        and "gradient norm" in str(found.value)
    )
    assert (
        "nan" in str(found.value) or "inf" in str(found.value)
    ) and "step-000003" in found.value.fix
    assert same(weights(trainer), before) and same(trainer.optimizer.state(), state)
    assert all(map(torch.equal, trainer.ema.stored(), average))
    assert [folder.name for folder in trainer.run.step_folders()] == ["step-000003"]


def test_the_error_names_loss_and_gradient_norm(make):
    trainer = make()
    poison(trainer, 0, math.nan)
    with pytest.raises(TrainingError, match=r"step 1: loss \d+\.\d+, gradient norm nan") as found:
        trainer.train()
    assert "nothing was saved" in found.value.fix and trainer.run.step_folders() == []


def with_scaler(trainer: Trainer) -> Trainer:
    """As with fp16 on a GPU: the scaler on, the numbers float32."""
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    return trainer


@pytest.mark.parametrize("only", ["", "token_embedding", "attention.qkv"])
@pytest.mark.parametrize("grad_clip", [0.0, 1.0])
def test_an_overflow_in_fp16_is_skipped_and_counted(make, only, grad_clip):
    trainer = with_scaler(make(grad_clip=grad_clip))
    poison(trainer, 1, math.inf, only)
    trainer.train_step()
    before = weights(trainer)
    trainer.train_step()
    assert (
        trainer.progress.skipped_steps == 1
        and trainer.step == 2
        and trainer.scaler.get_scale() == 512
    )
    assert same(weights(trainer), before)
    trainer.train_step()
    assert trainer.progress.skipped_steps == 0 and not same(weights(trainer), before)
    assert all(bool(weight.isfinite().all()) for weight in weights(trainer).values())


def test_too_many_overflows_in_a_row_end_the_training(make):
    trainer = with_scaler(make(max_steps=1000))
    trainer.accumulate_gradients = lambda: (
        [setattr(w, "grad", torch.full_like(w, math.inf)) for w in trainer.model.parameters()]
        and torch.ones(())
    )
    trainer.scaler.scale(torch.ones(()))
    with pytest.raises(TrainingError):
        trainer.train()
    assert trainer.step == SKIPPED_STEPS_LIMIT


def test_loss_scaling_changes_nothing_without_overflows(make):
    plain, scaled = make("plain"), with_scaler(make("scaled"))
    for trainer in (plain, scaled):
        trainer.train_step()
    for one, other in zip(weights(plain).values(), weights(scaled).values(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("patience", [1, 2])
def test_patience_ends_a_run_without_improvement(make, monkeypatch, patience):
    trainer = make(max_steps=50, eval_interval=2, patience=patience)
    monkeypatch.setattr(trainer, "evaluate", lambda most=None: Evaluation(10, 30, 2.0, 0.5))
    monkeypatch.setattr(trainer, "score_best", lambda: None)
    records: list[dict] = []
    monkeypatch.setattr(trainer.output.sink, "write", records.append)
    result = trainer.train()
    assert (result.steps, result.best_step, result.stopped) == (2 + 2 * patience, 2, False)
    assert records[-1]["kind"] == "early_stop"


def test_the_best_checkpoint_is_scored_on_the_whole_validation_text_at_the_end(make):
    trainer = make(max_steps=4, eval_interval=2, eval_tokens=64)
    result = trainer.train()
    model, _ = load_model(trainer.run.best(), torch.device("cpu"))
    whole = evaluate(model, trainer.data.prepared.val_ids, trainer.data.prepared.val_bytes)
    assert whole.tokens == len(trainer.data.prepared.val_ids) - 1 > 64
    assert (
        result.val_loss
        == pytest.approx(whole.loss, rel=1e-6)
        == trainer.run.pointer("best")["val_loss"]
    )


def test_the_result_has_the_figures_of_the_best_checkpoint(make, monkeypatch):
    trainer, losses = make(max_steps=6, eval_interval=2), iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(
        trainer, "evaluate", lambda most=None: Evaluation(10, 30, next(losses), 0.5)
    )
    monkeypatch.setattr(trainer, "score_best", lambda: None)
    result = trainer.train()
    assert (result.best_step, result.val_loss, Path(result.path).name) == (4, 1.0, "step-000004")
    assert result.perplexity == pytest.approx(math.e)
    assert result.bits_per_byte == pytest.approx(10 / 30 / math.log(2))
    assert trainer.run.best().name == "step-000004" and trainer.run.last().name == "step-000006"


@pytest.mark.parametrize("k", [1, 3])
def test_a_request_to_stop_saves_a_checkpoint_of_the_current_step(make, k):
    trainer = make(should_stop=lambda: trainer.step >= k)
    result = trainer.train()
    assert result.stopped and result.steps == k and trainer.run.last().name == f"step-00000{k}"


def test_a_request_to_stop_before_the_first_step_saves_nothing(make):
    trainer = make(should_stop=lambda: True)
    with pytest.raises(TrainingError, match="nothing was saved"):
        trainer.train()
    assert trainer.run.step_folders() == []


def test_training_continues_with_the_live_weights_after_a_save(make):
    trainer = make(ema_decay=0.9)
    trainer.train_step()
    trainer.train_step()
    live = weights(trainer)
    trainer.evaluate_and_save()
    assert same(weights(trainer), live)


def test_dropout_depends_on_the_step_alone(make):
    a, b = make("a", dropout=0.3), make("b", dropout=0.3)
    torch.manual_seed(1)
    a.train_step()
    torch.manual_seed(2)
    devices.seed_dropout(torch.device("cpu"), 9)
    b.train_step()
    assert same(weights(a), weights(b))


def test_a_plan_fixes_the_steps_and_keeps_the_initial_weights(make):
    trainer = make(max_steps=None, budget=2.0, eval_interval=None)
    planned = plan(
        trainer,
        lambda config, precision: make("p", **config.to_mapping() | {"precision": precision}),
        0.0,
        print,
    )
    assert planned.config.max_steps and planned.config.eval_interval
    assert planned.step == 0 and same(weights(planned), weights(make("new")))
