"""The plan: limits on steps, epochs and time become a number of steps and a mode."""

from __future__ import annotations

import math
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import STORY, TINY_FLAGS
from small_runs import digests, slow_steps, training_context

from simplellm import device as devices
from simplellm.app.cli import main
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.run_log import read_log
from simplellm.checkpoint.step_names import step_of
from simplellm.device import fast_float32
from simplellm.errors import CheckpointError, SettingError
from simplellm.training import plan
from simplellm.training.execution import is_compiled
from simplellm.training.plan import ExecutionMode
from simplellm.training.preparation import prepare_run
from simplellm.training.result import Result
from simplellm.training.resume import resume
from simplellm.training.sources import Sources
from simplellm.training.start import start
from simplellm.training.trainer import Trainer

CPU = torch.device("cpu")
TINY = {
    "n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16, "vocab_size": 300, "batch_size": 32,
    "eval_tokens": 64,
    "precision": "float32", "bpe_dropout": 0.0, "patience": 0, "max_epochs": None,
    "compile": "off",
}  # fmt: skip


def planned(folder: Path, **given: Any) -> Trainer:
    return prepare_run(
        Sources((str(STORY),)),
        {**TINY, **given},
        RunFolder(folder / "planned"),
        training_context(folder),
    )[0]


def train(folder: Path, name: str, stop_after: int | None = None, **given: Any) -> Result:
    return start(
        Sources((str(STORY),)), {**TINY, **given}, name, training_context(folder, stop_after)
    )


@pytest.mark.parametrize("epochs", [0.5, 2.0])
def test_epochs_fix_the_steps(folder, epochs):
    trainer = planned(folder, max_epochs=epochs)
    windows = trainer.config.max_steps * 32
    assert math.ceil(epochs * trainer.dataset.windows_per_epoch / 32) == trainer.config.max_steps
    assert 0 <= windows - epochs * trainer.dataset.windows_per_epoch < 32


@pytest.mark.parametrize("is_slow", [False, True])
def test_the_timing_of_a_large_model_is_announced(folder, monkeypatch, is_slow):
    notices: list[str] = []
    context = replace(training_context(folder), notice=notices.append)
    if is_slow:
        monkeypatch.setattr(plan, "SLOW_PARAMETERS", 1000)
    prepare_run(Sources((str(STORY),)), {**TINY, "max_steps": 1}, RunFolder(folder / "x"), context)
    assert any(notice.startswith("timing steps of ") for notice in notices) == is_slow


def test_accumulation_is_part_of_an_epoch(folder):
    whole, parts = (
        planned(folder, max_epochs=2.0),
        planned(folder, max_epochs=2.0, batch_size=8, gradient_accumulation=4),
    )
    assert whole.config.max_steps == parts.config.max_steps


@pytest.mark.parametrize(
    ("given", "steps"),
    [({"max_steps": 3, "max_epochs": 50.0}, 3), ({"max_steps": 3, "budget": 600.0}, 3)],
)
def test_the_smallest_of_several_limits_applies(folder, given, steps):
    assert planned(folder, **given).config.max_steps == steps


def test_a_longer_budget_plans_more_steps(folder, monkeypatch):
    monkeypatch.setattr("simplellm.training.plan._shortest", lambda *_, **__: 0.01)  # seconds
    short, long = (planned(folder, budget=seconds).config.max_steps for seconds in (20.0, 200.0))
    assert 5 * short < long < 25 * short


class Clock:
    """The clock, and the seconds it is told to have skipped."""

    def __init__(self) -> None:
        self.read, self.skipped = time.perf_counter, 0.0

    def __call__(self) -> float:
        return self.read() + self.skipped


def test_slow_saves_make_evaluations_rarer(folder, monkeypatch):
    monkeypatch.setattr("simplellm.training.plan.seconds_to_save", lambda *_: 0.0)
    fast = planned(folder, max_steps=1000).config.eval_interval
    monkeypatch.setattr("simplellm.training.plan.seconds_to_save", lambda *_: 10.0)
    assert (
        1000 / fast == pytest.approx(20, abs=1)
        and planned(folder, max_steps=1000).config.eval_interval == 1000
    )
    assert planned(folder, max_steps=1000, eval_interval=7).config.eval_interval == 7


def test_slow_evaluations_are_made_rarer(folder, monkeypatch):
    monkeypatch.setattr("simplellm.training.plan.seconds_to_save", lambda *_: 0.0)
    fast = planned(folder, max_steps=1000).config.eval_interval
    evaluate, clock, skipped = Trainer.evaluate, Clock(), iter(range(1, 10**6))

    def slow(trainer: Trainer, most: int | None = None) -> Any:
        clock.skipped = 5.0 * next(skipped)
        return evaluate(trainer, most)

    monkeypatch.setattr("simplellm.training.plan.time.perf_counter", clock)
    monkeypatch.setattr(Trainer, "evaluate", slow)
    assert (
        1000 / fast == pytest.approx(20, abs=1)
        and planned(folder, max_steps=1000).config.eval_interval > 5 * fast
    )


def test_a_given_evaluation_interval_is_kept(folder):
    assert planned(folder, max_steps=1000, eval_interval=7).config.eval_interval == 7


def test_a_plan_records_the_chosen_execution_mode(folder):
    config = planned(folder, max_steps=5, precision="auto", compile="auto").config
    assert (
        config.compile == "off"
        and config.precision in ("float32", "bf16")
        and config.eval_interval <= 5
    )


@pytest.mark.parametrize("limit", [{"max_steps": 100}, {"budget": 70.0}, {"max_epochs": 1.0}])
def test_a_short_run_is_compiled_only_on_request(folder, monkeypatch, limit):
    asked: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda function: asked.append(function) or function)
    assert planned(folder, **limit, compile="auto").config.compile == "off" and asked == []


@pytest.mark.parametrize(
    ("compiled_seconds", "choice"), [(0.015, "on"), (0.0199, "off"), (0.03, "off")]
)
def test_a_long_run_is_compiled_where_compiled_steps_are_faster(
    folder, monkeypatch, compiled_seconds, choice
):
    monkeypatch.setattr(torch, "compile", lambda function: function)

    def timed(trainer: Trainer, precision: str) -> ExecutionMode:
        seconds = compiled_seconds if is_compiled(trainer.model) else 0.02
        return ExecutionMode(precision, False, seconds)

    monkeypatch.setattr("simplellm.training.plan._timed", timed)
    trainer = planned(folder, budget=3600.0, compile="auto")
    assert trainer.config.compile == choice and is_compiled(trainer.model) == (choice == "on")
    assert trainer.config.max_steps == pytest.approx(
        3600 / (compiled_seconds if choice == "on" else 0.02), rel=0.15
    )


def test_compiled_steps_that_give_nan_are_not_used(folder, monkeypatch):
    def compiled(function):
        return lambda *arguments: function(*arguments) * float("nan")

    monkeypatch.setattr(torch, "compile", compiled)
    trainer = planned(folder, max_steps=5, compile="on")
    assert trainer.config.compile == "off" and not is_compiled(trainer.model)
    trainer.train_step()
    assert math.isfinite(trainer.gradient_norm)


@pytest.mark.parametrize("budget", ["0.001s", "0.05s"])
def test_a_budget_too_short_for_one_step_is_refused_in_one_line_with_one_that_works(
    tmp_path, capsys, budget
):
    code = main(
        [
            "train",
            str(STORY),
            "--name",
            "x",
            "--budget",
            budget,
            "--checkpoints",
            str(tmp_path),
            *TINY_FLAGS,
        ]
    )
    out, err = capsys.readouterr()
    assert (
        (code, out) == (2, "")
        and "too short" in err
        and "--budget" in err
        and len(err.splitlines()) <= 2
    )
    assert not (tmp_path / "x").exists()


def test_the_suggested_budget_is_long_enough(folder):
    with pytest.raises(SettingError, match="too short") as refused:
        planned(folder, budget=0.001)
    seconds = float(refused.value.fix.split()[1].rstrip("s"))
    assert planned(folder, budget=seconds).config.max_steps >= 1


def test_slow_steps_are_timed_fewer_times(folder, monkeypatch):
    """A busy machine: what is spent on timing is missing from the training."""
    monkeypatch.setattr("simplellm.training.plan.TIMED_STEPS", 3)
    monkeypatch.setattr("simplellm.training.plan.WARM_UP_STEPS", 2)
    taken, train_step = [], Trainer.train_step

    def slow(self: Trainer, *arguments: Any) -> None:
        taken.append(time.sleep(0.5))
        train_step(self, *arguments)

    monkeypatch.setattr(Trainer, "train_step", slow)
    assert planned(folder, budget=6.0).config.max_steps >= 4
    assert len(taken) == 2  # one to warm up


def info_of(folder: Path, name: str) -> dict[str, Any]:
    return RunFolder(folder / name).read_info()


FADING = {
    "bpe_dropout": 0.3,
    "renaming": 0.5,
    "schedule": "wsd",
    "ema_decay": 0.9,
    "eval_tokens": 64,
    "eval_interval": 20,
}


def uneven(step: int) -> float:
    """Seconds of a step: more in the middle of a run than before and after."""
    return 0.1 if 20 <= step < 40 else 0.03


def test_decisions_are_recorded_and_a_resumed_run_repeats_them_bit_for_bit(folder, monkeypatch):
    with monkeypatch.context() as busy:
        slow_steps(busy, uneven)
        train(folder, "uneven", **FADING, budget=4.0)
    run, info = RunFolder(folder / "uneven"), info_of(folder, "uneven")
    assert (
        len(info["decisions"]) > 2
        and info["training"]["max_steps"] == info["decisions"][-1]["max_steps"]
    )
    whole, last = digests(run), run.last()
    shutil.rmtree(last)  # as if it had been lost: what is left is an earlier checkpoint
    assert 0 < step_of(run.last()) < info["training"]["max_steps"]
    again = resume(run, {}, training_context(folder))  # on a machine that is quiet now
    assert again.steps == info["training"]["max_steps"] and run.last().name == last.name
    assert digests(run) == whole and info_of(folder, "uneven")["decisions"] == info["decisions"]


def test_a_stopped_run_resumes_within_its_budget(folder, monkeypatch):
    stopped = train(folder, "stopped", stop_after=10, **FADING, budget=2.5)
    assert stopped.stopped and stopped.steps == 10
    slow_steps(monkeypatch, uneven)
    done = resume(RunFolder(folder / "stopped"), {}, training_context(folder))
    assert (
        not done.stopped and done.steps > 10 and done.train_seconds == pytest.approx(2.5, rel=0.35)
    )


def test_a_longer_budget_at_resume_gives_a_new_plan(folder, monkeypatch):
    slow_steps(monkeypatch)
    first = train(folder, "longer", **FADING, budget=1.0)
    longer = resume(RunFolder(folder / "longer"), {"budget": 2.0}, training_context(folder))
    rates = [
        record["learning_rate"]
        for record in read_log(RunFolder(folder / "longer").log_path)
        if record["kind"] == "step"
    ]
    assert longer.steps > first.steps and longer.train_seconds == pytest.approx(2.0, rel=0.35)
    assert (
        max(rates[first.steps // 10 :][:5]) > 0
        and info_of(folder, "longer")["training"]["budget"] == 2.0
    )


def test_max_steps_given_at_resume_overrides_the_budget(folder, monkeypatch):
    slow_steps(monkeypatch)
    first = train(folder, "steps", **FADING, budget=1.0)
    assert (
        resume(
            RunFolder(folder / "steps"), {"max_steps": first.steps + 7}, training_context(folder)
        ).steps
        == first.steps + 7
    )
    assert (
        resume(RunFolder(folder / "steps"), {}, training_context(folder)).steps == first.steps + 7
    )


@pytest.mark.parametrize(
    "damage",
    [
        {"decisions": [{"step": "x"}]},
        {"decisions": [{"step": 2, "max_steps": 9, "eval_interval": 3}]},
        {"decisions": 7},
        {"decided_until": "soon"},
    ],
)
def test_damaged_decisions_are_refused_in_one_line(folder, damage):
    if not (folder / "damaged").exists():
        train(folder, "damaged", stop_after=5, **FADING, budget=2.0)
    run = RunFolder(folder / "damaged")
    info = run.read_info()
    run.write_info({**info, **damage})
    with pytest.raises(CheckpointError, match="decisions of damaged are damaged"):
        resume(run, {}, training_context(folder))
    run.write_info(info)


# ---------------------------------------------------------------- a second look


SHAPELESS = {
    name: value
    for name, value in TINY.items()
    if name not in ("n_layer", "n_head", "n_embd", "block_size", "batch_size")
}


def shape_by_speed(monkeypatch: pytest.MonkeyPatch, *speeds: float) -> list[float]:
    """Let measurements of the machine's speed return `speeds`; the recipe has small widths."""
    measured = list(speeds)
    monkeypatch.setattr(
        "simplellm.training.preparation.relative_speed", lambda device: measured.pop(0)
    )
    monkeypatch.setattr("simplellm.config.recipe.SMALL_TEXT_BYTES", 1000)
    monkeypatch.setattr("simplellm.config.recipe.SHAPES", ((0, 1, 32), (60, 1, 64)))
    return measured


@pytest.mark.parametrize(("speeds", "width", "left"), [((1.0, 40.0), 64, 0), ((1.0, 1.1), 32, 0)])
def test_a_model_too_small_for_the_machine_is_replaced_once_soon_after_the_start(
    folder, monkeypatch, speeds, width, left
):
    slow_steps(monkeypatch)
    measured, notices, records = shape_by_speed(monkeypatch, *speeds), [], []
    sink = type("Sink", (), {"write": lambda self, record: records.append(record)})()
    listening = replace(training_context(folder), notice=notices.append, sink=sink)
    given = {**SHAPELESS, "budget": 3.0, "vocab_size": 300, "batch_size": 2}
    result = start(Sources((str(STORY),)), given, f"look-{speeds[1]}", listening)
    info = info_of(folder, result.run)
    is_new = any("starting again with a larger model" in notice for notice in notices)
    assert (info["model"]["n_embd"], len(measured), is_new) == (width, left, speeds == (1.0, 40.0))
    assert [record["kind"] for record in records].count("restart") == is_new
    assert result.train_seconds == pytest.approx(3.0, rel=0.35) and info["speed"] == (
        max(speeds) if is_new else speeds[0]
    )
    steps = [
        record["step"]
        for record in read_log(RunFolder(folder / result.run).log_path)
        if record["kind"] == "step"
    ]
    assert steps == sorted(set(steps)), "the log is of the second attempt alone"


def test_a_given_model_shape_is_not_replaced(folder, monkeypatch):
    slow_steps(monkeypatch)
    shape_by_speed(monkeypatch, 1.0, 20.0)
    result = start(
        Sources((str(STORY),)), {**TINY, "budget": 1.5}, "given-shape", training_context(folder)
    )
    assert info_of(folder, result.run)["model"]["n_embd"] == 16


# ---------------------------------------------------------------- unused budgets


def test_a_budget_that_the_text_cannot_use_is_reported_before_training(folder):
    notices: list[str] = []
    listening = training_context(folder, notice=notices.append)
    prepare_run(
        Sources((str(STORY),)),
        {**TINY, "budget": 600.0, "max_epochs": 2.0},
        RunFolder(folder / "planned"),
        listening,
    )
    (told,) = [notice for notice in notices if "of its budget" in notice]
    assert re.match(
        r"this run can use about \d+ s of its budget of 600 s: after 2 passes over [\d,]+ bytes",
        told,
    )
    assert "more text" in told and "--from" in told and int(told.split("about ")[1].split()[0]) < 60


@pytest.mark.parametrize(
    "given",
    [{"budget": 3.0, "max_epochs": 500.0}, {"max_steps": 5}, {"max_epochs": 2.0, "budget": None}],
)
def test_no_notice_appears_for_a_budget_that_is_used(folder, given):
    notices: list[str] = []
    listening = training_context(folder, notice=notices.append)
    prepare_run(Sources((str(STORY),)), {**TINY, **given}, RunFolder(folder / "planned"), listening)
    assert not any("of its budget" in notice for notice in notices)


def test_a_budget_with_less_than_a_step_left_is_used(folder, monkeypatch):
    slow_steps(monkeypatch, lambda step: 20.0)
    notices: list[str] = []
    listening = training_context(folder, notice=notices.append)
    given = {**FADING, **TINY, "budget": 70.0}
    trainer, _ = prepare_run(
        Sources((str(STORY),)), given, RunFolder(folder / "planned"), listening
    )
    assert trainer.config.max_steps == 2
    assert not any("of its budget" in notice for notice in notices)


# ---------------------------------------------------------------- products of float32


def test_fast_products_are_still_float32():
    a, b = (torch.randn(128, 128, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    with fast_float32(CPU):
        error = float((a @ b - a.double() @ b.double()).abs().max())
    assert error < 1e-4  # rounded to bf16 it is 0.1


@pytest.mark.parametrize("is_exact", [True, False])
def test_the_global_precision_setting_is_restored_after_an_error(monkeypatch, is_exact):
    monkeypatch.setattr(devices, "_onednn_is_exact", lambda: is_exact)
    before = torch.get_float32_matmul_precision()
    with pytest.raises(KeyboardInterrupt), fast_float32(CPU):
        inside = torch.get_float32_matmul_precision()
        raise KeyboardInterrupt
    assert torch.get_float32_matmul_precision() == before == "highest"
    assert inside == ("medium" if is_exact else "highest")


def test_fast_products_are_not_used_where_they_would_be_rounded(monkeypatch):
    product = torch.Tensor.__matmul__

    def rounding(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        is_rounded = torch.get_float32_matmul_precision() == "medium" and a.dtype == torch.float32
        return product(a.bfloat16(), b.bfloat16()).float() if is_rounded else product(a, b)

    devices._onednn_is_exact.cache_clear()
    monkeypatch.setattr(torch.Tensor, "__matmul__", rounding)
    try:
        assert not devices._onednn_is_exact()
    finally:
        devices._onednn_is_exact.cache_clear()
