"""Each training setting has its effect: one test for each."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import STORY
from small_runs import training_context

from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.run_log import read_log
from simplellm.config.recipe import choose
from simplellm.data.bpe_dropout import Segmenter
from simplellm.errors import DeviceError
from simplellm.model.block import TransformerBlock
from simplellm.model.scoring import Evaluation
from simplellm.training.execution import is_compiled
from simplellm.training.preparation import prepare_run
from simplellm.training.result import Result
from simplellm.training.resume import resume
from simplellm.training.schedule import Decision, rate_factor
from simplellm.training.sources import Sources
from simplellm.training.start import start
from simplellm.training.trainer import Trainer

PLAIN = {
    "n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16, "vocab_size": 300, "batch_size": 4,
    "eval_tokens": 64,
    "log_interval": 1, "precision": "float32", "compile": "off", "dropout": 0.0,
    "bpe_dropout": 0.0, "token_noise": 0.0,
    "renaming": 0.0, "induction": False, "composition": 0.0, "ema_decay": 0.0, "patience": 0,
    "max_steps": 6,
    "max_epochs": None, "eval_interval": 100,
}  # fmt: skip


def train(
    folder: Path,
    text: Path = STORY,
    notice: Callable[[str], None] = lambda text: None,
    **given: Any,
) -> Result:
    return start(
        Sources((str(text),)), {**PLAIN, **given}, None, training_context(folder, notice=notice)
    )


def trainer_of(folder: Path, text: Path = STORY, **given: Any) -> Trainer:
    """As `train` would train, before its first step."""
    return prepare_run(
        Sources((str(text),)),
        {**PLAIN, **given},
        RunFolder(folder / "unwritten"),
        training_context(folder),
    )[0]


def log(folder: Path, result: Result, kind: str = "step") -> list[dict[str, Any]]:
    return [
        record
        for record in read_log(RunFolder(folder / result.run).log_path)
        if record["kind"] == kind
    ]


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in trainer.model.parameters()]


@pytest.mark.parametrize("schedule", ["cosine", "constant", "linear", "noam", "wsd"])
def test_the_rates_in_the_log_follow_the_schedule(folder, schedule):
    result = train(
        folder,
        schedule=schedule,
        max_steps=12,
        warmup_steps=2,
        learning_rate=1e-3,
        min_lr_ratio=0.1,
    )
    rates = [record["learning_rate"] for record in log(folder, result)]
    plan = [Decision(0, 12, 12)]
    assert rates == pytest.approx(
        [1e-3 * rate_factor(step, plan, 2, schedule, 0.1) for step in range(12)]
    )
    assert rates[:3] == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3]) and (rates[-1] == rates[2]) == (
        schedule == "constant"
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_label_smoothing_changes_the_loss_as_cross_entropy_does(folder, smoothing):
    trainer = trainer_of(folder, label_smoothing=smoothing)
    ids, targets = trainer.dataset.batch(0, 0, 4)
    logits = trainer.model(ids).detach().flatten(0, 1)
    assert trainer.accumulate_gradients() == pytest.approx(
        float(F.cross_entropy(logits, targets.flatten(), label_smoothing=smoothing)), abs=1e-5
    )


def test_an_evaluation_is_not_smoothed(folder):
    plain, smooth = trainer_of(folder), trainer_of(folder, label_smoothing=0.5)
    assert plain.evaluate().loss == smooth.evaluate().loss


def test_gradient_checkpointing_computes_twice_and_changes_nothing(folder, monkeypatch):
    calls, forward = [0], TransformerBlock.forward

    def counted(*arguments: Any) -> Any:
        calls[0] += 1
        return forward(*arguments)

    monkeypatch.setattr(TransformerBlock, "forward", counted)
    counts, ends = [], []
    for wish in (False, True):
        trainer, calls[0] = trainer_of(folder, gradient_checkpointing=wish, dropout=0.3), 0
        for _ in range(3):
            trainer.train_step()
        counts.append(calls[0])
        ends.append(weights(trainer))
    assert counts == [3, 6] and all(map(torch.equal, *ends))


def test_bf16_on_a_cpu_trains(folder):
    losses = {}
    for precision in ("float32", "bf16"):
        result = train(folder, precision=precision, max_steps=40, batch_size=8)
        losses[precision] = [record["loss"] for record in log(folder, result)]
        assert RunFolder(folder / result.run).read_info()["training"]["precision"] == precision
    assert sum(losses["bf16"][-5:]) / 5 < losses["bf16"][0] - 0.3
    assert (
        losses["bf16"][0] == pytest.approx(losses["float32"][0], rel=0.01)
        and losses["bf16"] != losses["float32"]
    )


def test_compile_on_runs_every_step_with_the_compiled_block(folder, monkeypatch):
    calls: list[int] = []

    def compiler(block: Any) -> Any:
        return lambda *arguments: (calls.append(1), block(*arguments))[1]

    monkeypatch.setattr(torch, "compile", compiler)
    trainer = trainer_of(folder, compile="on", gradient_accumulation=2)
    calls.clear()
    for _ in range(3):
        trainer.train_step()
    assert len(calls) == 6 and trainer.config.compile == "on"  # one block, two micro steps
    trainer.evaluate()
    assert len(calls) == 6  # only training steps are compiled


def test_training_continues_eagerly_with_a_notice_where_compilation_fails(folder, monkeypatch):
    def broken(loss: Any) -> Any:
        def call(*arguments: Any) -> Any:
            raise RuntimeError("no compiler here\nand a long trace")

        return call

    said: list[str] = []
    monkeypatch.setattr(torch, "compile", broken)
    result = train(folder, compile="on", notice=said.append)
    assert (
        result.steps == 6
        and RunFolder(folder / result.run).read_info()["training"]["compile"] == "off"
    )
    unable = "torch.compile does not work here (RuntimeError); continuing without"
    assert [line for line in said if "torch.compile" in line] == [unable]


def test_a_compiled_run_resumes_on_a_machine_without_a_compiler(folder, monkeypatch):
    """A run moved to a machine without a compiler."""
    said: list[str] = []
    with monkeypatch.context() as able:
        able.setattr(torch, "compile", lambda block: block)
        result = train(folder, compile="on", max_steps=3)
    monkeypatch.setattr(torch, "compile", lambda block: {}[block])
    resumed = resume(
        RunFolder(folder / result.run),
        {"max_steps": 5},
        training_context(folder, notice=said.append),
    )
    assert (
        resumed.steps == 5
        and "torch.compile does not work here (KeyError); continuing without" in said
    )
    said.clear()
    resume(RunFolder(folder / result.run), {}, training_context(folder, notice=said.append))
    assert not any("compil" in line for line in said), "a run that is done has no step to compile"


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(
            {"architecture": "modern", "n_kv_head": 1, "r_drop": 1.0, "block_size": 160},
            marks=pytest.mark.slow,
        ),
        {"architecture": "gpt2", "gradient_checkpointing": True, "freeze": 1},
    ],
)
def test_compiled_steps_compute_the_eager_steps(folder, monkeypatch, given):
    """With the same dropout; what a compiler is given, without the C++ it would make of it."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    ends = []
    for wish in ("off", "on"):
        trainer = trainer_of(folder, **{"n_layer": 2, "dropout": 0.3, "compile": wish, **given})
        assert is_compiled(trainer.model) == (wish == "on")
        for _ in range(3):
            trainer.train_step()
        ends.append(torch.cat([weight.flatten() for weight in weights(trainer)]))
    torch.testing.assert_close(
        *ends, atol=1e-3, rtol=1e-3
    )  # Muon's bf16 products enlarge a different order of summation


@pytest.mark.slow
def test_compile_on_works_or_falls_back(folder):
    said: list[str] = []
    result = train(folder, compile="on", notice=said.append)
    is_compiled = RunFolder(folder / result.run).read_info()["training"]["compile"] == "on"
    assert result.steps == 6 and any(
        ("compiled in" if is_compiled else "does not work") in line for line in said
    )


def test_max_epochs_limits_the_passes_over_the_text(folder):
    result = train(folder, max_steps=None, max_epochs=2.0, batch_size=64, log_interval=1)
    assert log(folder, result)[-1]["epoch"] == pytest.approx(
        2.0, abs=64 / 600
    ) and result.steps == len(log(folder, result))


def test_patience_ends_a_run_without_improvement(folder, monkeypatch):
    monkeypatch.setattr(
        Trainer, "evaluate", lambda trainer, most=None, model=None: Evaluation(10, 30, 2.0, 0.5)
    )
    result = train(folder, max_steps=50, eval_interval=2, patience=3)
    assert (result.steps, result.best_step, result.stopped) == (8, 2, False) and log(
        folder, result, "early_stop"
    )


def test_the_recipe_sets_patience_for_small_texts():
    assert choose(20_000, {})[1].patience > 0 and choose(20_000, {"patience": 0})[1].patience == 0


def test_a_stride_below_the_block_gives_more_windows_and_overlapping_ones(folder):
    windows, seen = {}, {}
    for stride in (16, 4):
        trainer = trainer_of(folder, stride=stride)
        windows[stride] = count = trainer.dataset.windows_per_epoch
        seen[stride] = trainer.dataset.batch(0, 0, count)[0].numel() / len(
            trainer.data.prepared.train_ids
        )
    assert windows[4] == pytest.approx(4 * windows[16], rel=0.01)
    assert seen[16] == pytest.approx(1, abs=0.02) and seen[4] == pytest.approx(4, rel=0.02)


@pytest.mark.parametrize("bpe_dropout", [0.0, 0.5])
def test_end_of_text_separates_documents(folder, tmp_path, story, bpe_dropout):
    documents = [story[i : i + 700] for i in range(0, 7000, 700)]
    (tmp_path / "d.jsonl").write_text(
        "".join(json.dumps({"text": document}) + "\n" for document in documents)
    )
    trainer = trainer_of(folder, tmp_path / "d.jsonl", bpe_dropout=bpe_dropout)
    tokenizer = trainer.data.prepared.tokenizer
    ids = trainer.dataset._epoch_ids(0)
    cuts = np.flatnonzero(ids == tokenizer.end_of_text)
    parts = [tokenizer.decode(part[1:].tolist()) for part in np.split(ids, cuts)[1:]]
    assert cuts[0] == 0 and parts == documents[:9], "the tenth is held out"


def test_token_noise_replaces_its_share_of_the_inputs_and_no_target(folder):
    (inputs, targets), (noisy, noisy_targets) = (
        trainer_of(folder, token_noise=share).dataset.batch(2, 0, 500) for share in (0.0, 0.3)
    )
    assert torch.equal(targets, noisy_targets)
    assert float((inputs != noisy).float().mean()) == pytest.approx(
        0.3, abs=0.03
    )  # a few are replaced by themselves


def test_renaming_replaces_names_in_every_epoch(folder, tmp_path, story):
    (tmp_path / "text.txt").write_text("Quillon spoke. Quillon sat.\n" * 9 + story * 9)
    trainer = trainer_of(folder, tmp_path / "text.txt", renaming=1.0, max_steps=1000)
    epochs = [
        trainer.data.prepared.tokenizer.decode(trainer.dataset._epoch_ids(epoch).tolist())
        for epoch in (0, 500)
    ]
    plain = trainer.data.prepared.tokenizer.decode(trainer.data.prepared.train_ids.tolist())
    assert (
        plain.count("Quillon ") == 18
        and all(text.count("Quillon ") < 12 for text in epochs)
        and epochs[0] != epochs[1]
    )
    assert all(text.count(".") == plain.count(".") for text in epochs), "which is no name"


def test_induction_initializes_heads_that_copy(folder):
    shape = {"n_layer": 2, "n_embd": 64, "block_size": 32}
    again = torch.randint(300, (8, 8), generator=torch.Generator().manual_seed(0)).repeat(1, 4)
    models = [trainer_of(folder, induction=on, **shape).model for on in (False, True)]
    with torch.no_grad():
        losses = [
            float(F.cross_entropy(model(again[:, :-1])[:, 8:].mT, again[:, 9:])) for model in models
        ]
    assert losses[1] < losses[0] - 0.5


def test_bpe_dropout_falls_to_nearly_none_at_the_end(folder, tmp_path, story, monkeypatch):
    epochs: dict[int, tuple[float, list[int]]] = {}
    call = Segmenter.__call__

    def recorded(self: Segmenter, epoch: int, merged: float = 0.0) -> np.ndarray:
        ids = call(self, epoch, merged)
        epochs[epoch] = (merged, ids.tolist())
        return ids

    (tmp_path / "text.txt").write_text(story[:3000])
    trainer = trainer_of(
        folder, tmp_path / "text.txt", bpe_dropout=0.5, batch_size=32, max_steps=60
    )
    monkeypatch.setattr(Segmenter, "__call__", recorded)
    for _ in range(60):
        trainer.train_step()
    shares, plain = (
        [epochs[epoch][0] for epoch in sorted(epochs)],
        trainer.data.prepared.train_ids.tolist(),
    )
    lengths = [len(epochs[epoch][1]) for epoch in sorted(epochs)]
    assert (
        len(shares) >= 6
        and shares == sorted(shares)
        and shares[: len(shares) // 2] == [0.0] * (len(shares) // 2)
    )
    assert shares[-1] > 0.6 and len({tuple(ids) for _, ids in epochs.values()}) == len(epochs)
    assert len(plain) < lengths[-1] < len(plain) + 0.4 * (lengths[0] - len(plain)) < lengths[0]


def test_gradient_norms_per_layer_add_up_to_the_total(folder):
    result = train(folder, log_gradients=True, n_layer=2, max_steps=3)
    for record in log(folder, result):
        assert math.hypot(*record["gradient_norms"].values()) == pytest.approx(
            record["gradient_norm"], rel=1e-4
        )
        assert len(record["gradient_norms"]) >= 4, "two blocks, the embeddings, the last norm"


def test_an_out_of_memory_error_suggests_a_smaller_batch_and_loses_nothing(folder, monkeypatch):
    trainer = trainer_of(
        folder, batch_size=8, gradient_accumulation=3, max_steps=4, eval_interval=1
    )
    trainer.run.write_info({})
    trainer.train_step()
    trainer.evaluate_and_save()
    before = weights(trainer)

    def full(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(trainer.model, "loss", full)
    with pytest.raises(DeviceError, match="out of memory.*step-000001") as told:
        trainer.train()
    assert "--batch-size 4 --gradient-accumulation 6" in told.value.fix
    assert (
        all(map(torch.equal, before, weights(trainer))) and trainer.run.last().name == "step-000001"
    )
