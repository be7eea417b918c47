"""What was asked of steps, epochs and time becomes a number of steps, and that number stays."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import STORY, TINY_FLAGS

from simplellm import device as devices
from simplellm.app.cli import main
from simplellm.checkpoint import Run, load_training_state
from simplellm.device import fast_float32
from simplellm.distributed import World
from simplellm.errors import SettingError
from simplellm.metrics import Sinks
from simplellm.plan import Way
from simplellm.trainer import Result, Trainer
from simplellm.training import Sources, Surroundings, prepare_run, resume, start

CPU = torch.device("cpu")
TINY = {
    "n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16, "vocab_size": 300, "batch_size": 32, "eval_tokens": 64,
    "precision": "float32", "bpe_dropout": 0.0, "patience": 0, "max_epochs": None,
    "compile": "off",
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("quick_probe")


def around(folder: Path, stop_after: int = 10**9) -> Surroundings:
    asked = iter(range(10**9))
    return Surroundings(
        checkpoints=folder, device=CPU, world=World(), sink=Sinks(), notice=lambda text: None,
        should_stop=lambda: next(asked) >= stop_after,
    )  # fmt: skip


def planned(folder: Path, **given: Any) -> Trainer:
    return prepare_run(Sources((str(STORY),)), {**TINY, **given}, Run(folder / "planned"), around(folder))[0]


def train(folder: Path, name: str, stop_after: int = 10**9, **given: Any) -> Result:
    return start(Sources((str(STORY),)), {**TINY, **given}, name, around(folder, stop_after))


@pytest.mark.parametrize("epochs", [0.5, 2.0])
def test_epochs_fix_the_steps(folder, epochs):
    trainer = planned(folder, max_epochs=epochs)
    windows = trainer.config.max_steps * 32
    assert math.ceil(epochs * trainer.dataset.windows_per_epoch / 32) == trainer.config.max_steps
    assert 0 <= windows - epochs * trainer.dataset.windows_per_epoch < 32


def test_accumulation_is_part_of_an_epoch(folder):
    whole, parts = planned(folder, max_epochs=2.0), planned(folder, max_epochs=2.0, batch_size=8, gradient_accumulation=4)
    assert whole.config.max_steps == parts.config.max_steps


@pytest.mark.parametrize(
    ("given", "steps"), [({"max_steps": 3, "max_epochs": 50.0}, 3), ({"max_steps": 3, "budget": 600.0}, 3)]
)
def test_of_several_limits_the_nearest_counts(folder, given, steps):
    assert planned(folder, **given).config.max_steps == steps


def test_a_longer_budget_is_more_steps(folder):
    short, long = (planned(folder, budget=seconds).config.max_steps for seconds in (20.0, 200.0))
    assert 5 * short < long < 25 * short


class Clock:
    """The clock, and the seconds it is told to have skipped."""

    def __init__(self) -> None:
        self.read, self.skipped = time.perf_counter, 0.0

    def __call__(self) -> float:
        return self.read() + self.skipped


def test_slow_saves_are_fewer(folder, monkeypatch):
    monkeypatch.setattr("simplellm.plan.seconds_to_save", lambda *_: 0.0)
    fast = planned(folder, max_steps=1000).config.eval_interval
    monkeypatch.setattr("simplellm.plan.seconds_to_save", lambda *_: 10.0)
    assert 1000 / fast == pytest.approx(20, abs=1) and planned(folder, max_steps=1000).config.eval_interval == 1000
    assert planned(folder, max_steps=1000, eval_interval=7).config.eval_interval == 7


def test_slow_evaluations_are_fewer(folder, monkeypatch):
    monkeypatch.setattr("simplellm.plan.seconds_to_save", lambda *_: 0.0)
    fast = planned(folder, max_steps=1000).config.eval_interval
    evaluate, clock, skipped = Trainer.evaluate, Clock(), iter(range(1, 10**6))

    def slow(trainer: Trainer, most: int | None = None) -> Any:
        clock.skipped = 5.0 * next(skipped)
        return evaluate(trainer, most)

    monkeypatch.setattr("simplellm.plan.time.perf_counter", clock)
    monkeypatch.setattr(Trainer, "evaluate", slow)
    assert 1000 / fast == pytest.approx(20, abs=1) and planned(folder, max_steps=1000).config.eval_interval > 5 * fast


def test_an_interval_that_was_given_stands(folder):
    assert planned(folder, max_steps=1000, eval_interval=7).config.eval_interval == 7


def test_a_plan_records_what_was_chosen(folder):
    config = planned(folder, max_steps=5, precision="auto", compile="auto").config
    assert config.compile == "off" and config.precision in ("float32", "bf16") and config.eval_interval <= 5


@pytest.mark.parametrize("limit", [{"max_steps": 100}, {"budget": 60.0}, {"max_epochs": 1.0}])
def test_a_short_run_is_not_compiled_unless_asked_for(folder, monkeypatch, limit):
    asked: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda function: asked.append(function) or function)
    assert planned(folder, **limit, compile="auto").config.compile == "off" and asked == []


@pytest.mark.parametrize(("compiled_seconds", "choice"), [(0.015, "on"), (0.0199, "off"), (0.03, "off")])
def test_a_long_run_is_compiled_where_that_is_faster(folder, monkeypatch, compiled_seconds, choice):
    monkeypatch.setattr(torch, "compile", lambda function: function)

    def timed(trainer: Trainer, precision: str) -> Way:
        return Way(precision, False, compiled_seconds if trainer.model.compiled_block else 0.02)

    monkeypatch.setattr("simplellm.plan._timed", timed)
    trainer = planned(folder, budget=3600.0, compile="auto")
    assert trainer.config.compile == choice and bool(trainer.model.compiled_block) == (choice == "on")
    assert trainer.config.max_steps == pytest.approx(3600 / (compiled_seconds if choice == "on" else 0.02), rel=0.15)


@pytest.mark.parametrize("budget", ["0.001s", "0.05s"])
def test_a_budget_too_short_for_one_step_is_refused_in_one_line_with_one_that_works(tmp_path, capsys, budget):
    code = main(["train", str(STORY), "--name", "x", "--budget", budget, "--checkpoints", str(tmp_path), *TINY_FLAGS])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "") and "too short" in err and "--budget" in err and len(err.splitlines()) <= 2
    assert not (tmp_path / "x").exists()


def test_the_budget_that_is_suggested_is_enough(folder):
    with pytest.raises(SettingError, match="too short") as refused:
        planned(folder, budget=0.001)
    seconds = float(refused.value.fix.split()[1].rstrip("s"))
    assert planned(folder, budget=seconds).config.max_steps >= 1


def test_where_steps_are_slow_fewer_are_timed(folder, monkeypatch):
    """A busy machine: what is spent on timing is missing from the training."""
    taken, train_step = [], Trainer.train_step

    def slow(self: Trainer, *arguments: Any) -> None:
        taken.append(time.sleep(0.5))
        train_step(self, *arguments)

    monkeypatch.setattr(Trainer, "train_step", slow)
    assert planned(folder, budget=6.0).config.max_steps >= 4
    assert len(taken) == 2  # one to warm up


def slowed(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let each step after the planning take so much longer, as on a machine that grows hot or busy."""
    train = Trainer.train

    def slow_train(self: Trainer) -> Result:
        train_step = self.train_step
        self.train_step = lambda: (time.sleep(seconds), train_step())  # type: ignore[method-assign,assignment]
        return train(self)

    monkeypatch.setattr(Trainer, "train", slow_train)


def info_of(folder: Path, name: str) -> dict[str, Any]:
    return Run(folder / name).read_info()


FADING = {"bpe_dropout": 0.3, "renaming": 0.5, "schedule": "wsd", "ema_decay": 0.9, "eval_tokens": 64}


def test_a_run_that_is_slower_than_planned_is_shortened_and_is_the_run_that_was_planned_so(folder, monkeypatch):
    notices: list[str] = []
    with monkeypatch.context() as slow:
        slowed(slow, 0.04)
        slow.setattr("simplellm.plan._timed", lambda trainer, precision: Way(precision, False, 0.02))
        listening = replace(around(folder), notice=notices.append)
        result = start(Sources((str(STORY),)), {**TINY, **FADING, "budget": 2.0}, "late", listening)
    info = info_of(folder, "late")
    planned, steps = info["planned_steps"], info["training"]["max_steps"]
    assert 2 / 3 * planned - 1 <= steps < planned and result.steps == steps
    assert f"slower than when it was planned: {steps} steps instead of {planned}" in notices
    recorded = {name: info["training"][name] for name in ("max_steps", "eval_interval", "warmup_steps")}
    train(folder, "foreseen", **FADING, **recorded)
    late, foreseen = (load_training_state(Run(folder / name).last()).tensors for name in ("late", "foreseen"))
    assert late.keys() == foreseen.keys() and all(bool((late[name] == foreseen[name]).all()) for name in late)


@pytest.mark.parametrize(
    ("name", "schedule", "foreseen", "slower"), [("falling", "linear", 0.02, 0.04), ("in-time", "wsd", 0.1, 0.0)]
)
def test_a_run_keeps_its_steps_where_its_rate_falls_all_along_or_it_is_in_time(
    folder, monkeypatch, name, schedule, foreseen, slower
):
    slowed(monkeypatch, slower)
    monkeypatch.setattr("simplellm.plan._timed", lambda trainer, precision: Way(precision, False, foreseen))
    result = train(folder, name, **{**FADING, "schedule": schedule}, budget=2.0)
    info = info_of(folder, name)
    assert "planned_steps" not in info and result.steps == info["training"]["max_steps"] >= 8


def test_a_resumed_run_with_a_budget_keeps_the_steps_it_recorded(folder, monkeypatch):
    stopped = train(folder, "budget", stop_after=3, budget=2.0)
    recorded = Run(folder / "budget").read_info()["training"]["max_steps"]
    assert stopped.stopped and stopped.steps == 3 < recorded
    monkeypatch.setattr("simplellm.training.plan", None)  # a second plan would come to other steps
    monkeypatch.setattr("simplellm.training.shortened", None)  # and so might a second look at the clock
    assert resume(Run(folder / "budget"), {}, around(folder)).steps == recorded


# ---------------------------------------------------------------- products of float32


def test_fast_products_are_still_float32():
    a, b = (torch.randn(128, 128, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    with fast_float32(CPU):
        error = float((a @ b - a.double() @ b.double()).abs().max())
    assert error < 1e-4  # rounded to bf16 it is 0.1


@pytest.mark.parametrize("is_exact", [True, False])
def test_the_global_setting_is_restored_whatever_happens(monkeypatch, is_exact):
    monkeypatch.setattr(devices, "_onednn_is_exact", lambda: is_exact)
    before = torch.get_float32_matmul_precision()
    with pytest.raises(KeyboardInterrupt), fast_float32(CPU):
        inside = torch.get_float32_matmul_precision()
        raise KeyboardInterrupt
    assert torch.get_float32_matmul_precision() == before == "highest"
    assert inside == ("medium" if is_exact else "highest")


def test_where_products_would_be_rounded_the_fast_way_is_not_taken(monkeypatch):
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
