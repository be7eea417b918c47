"""The range test: the rate rises, the loss falls, and the suggestion lies where it fell fastest."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import NO_AUGMENTATION, STORY, TINY_FLAGS

from simplellm.app.cli import main
from simplellm.errors import StoppedEarly, TrainingError
from simplellm.training import lr_range_test as range_test
from simplellm.training.lr_range_test import find_rate, suggest

RATES = [10 ** (-5 + 5 * i / 99) for i in range(100)]


@pytest.fixture
def call(folder: Path, capsys: pytest.CaptureFixture[str]):
    """`train --find-lr` of a tiny model on the story: (exit code, stdout, stderr)."""

    def call(*arguments: str, texts: tuple[str, ...] = (str(STORY),)) -> tuple[int, str, str]:
        capsys.readouterr()
        flags = ["--checkpoints", str(folder), *TINY_FLAGS, *NO_AUGMENTATION]
        code = main(["train", *texts, "--find-lr", *flags, *arguments])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Range tests of 10 steps, for tests that do not examine the curve."""
    for module in ("simplellm.app.subcommands.find_lr", "simplellm.training.lr_range_test"):
        monkeypatch.setattr(f"{module}.STEPS", 10)


@pytest.mark.parametrize("steepest", [1e-4, 1e-3, 1e-2])
def test_the_suggestion_is_where_the_loss_falls_fastest(steepest):
    losses = [
        5 - 2 / (1 + (steepest / rate) ** 4) for rate in RATES
    ]  # falls by 2, half of it below `steepest`
    assert suggest(RATES, losses) == pytest.approx(steepest, rel=0.3)


def test_losses_after_divergence_do_not_change_the_suggestion():
    losses = [5 - 2 / (1 + (1e-3 / rate) ** 4) for rate in RATES]
    assert suggest(RATES, [*losses[:80], *[math.inf] * 20]) == pytest.approx(1e-3, rel=0.3)


@pytest.mark.parametrize("n", [1, 5, 9])
def test_the_suggestion_of_a_short_test_is_a_tested_rate(n):
    assert RATES[0] * 0.9 <= suggest(RATES[:n], [5.0 - i for i in range(n)]) <= RATES[n - 1] * 1.1


class FakeLearner:
    """A learner whose loss is a function of the last rate."""

    class Config:
        learning_rate = 1e-3

    config = Config()

    def __init__(self, loss_of: Any, steps_until_stop: int = 10**9) -> None:
        self.loss_of = loss_of
        self.left = steps_until_stop
        self.rates: list[float] = []
        self.loss = math.nan
        self.runtime = SimpleNamespace(should_stop=self.should_stop)

    def should_stop(self) -> bool:
        self.left -= 1
        return self.left < 0

    def train_step(self, factor: float) -> None:
        self.rates.append(1e-3 * factor)
        self.loss = self.loss_of(self.rates[-1])


def test_rates_rise_by_the_same_ratio_and_losses_are_smoothed():
    learner = FakeLearner(lambda rate: 5.0 + (0.1 if len(learner.rates) % 2 else -0.1))
    test = find_rate(learner)
    ratios = [later / earlier for earlier, later in zip(test.rates, test.rates[1:], strict=False)]
    assert (
        list(test.rates) == learner.rates
        and ratios == pytest.approx([ratios[0]] * len(ratios))
        and ratios[0] > 1
    )
    assert max(abs(loss - 5.0) for loss in test.losses[20:]) < 0.02


def test_the_test_ends_when_the_loss_diverges():
    learner = FakeLearner(lambda rate: 3.0 if rate < 1e-3 else 300.0)
    test = find_rate(learner)
    assert len(test.rates) == len(test.losses) < range_test.STEPS and test.losses[-1] > 3.5


def test_the_test_ends_when_the_loss_is_not_finite():
    def step(rate: float) -> float:
        if rate > 1e-3:
            raise TrainingError("step 75: loss nan, gradient norm nan; stopped before the update")
        return 3.0 - 100 * rate

    test = find_rate(FakeLearner(step))
    assert test.rates[0] < test.suggestion < 1e-3


def test_the_test_ends_on_a_request_to_stop():
    with pytest.raises(StoppedEarly):
        find_rate(FakeLearner(lambda rate: 3.0, steps_until_stop=5))


def test_the_curve_falls_and_the_suggestion_lies_inside_it_and_no_run_is_written(call, folder):
    code, out, _ = call("--json")
    found = json.loads(out)
    rates, losses = found["learning_rates"], found["losses"]
    assert (
        code == 0
        and sorted(found) == ["learning_rates", "losses", "suggestion"]
        and len(rates) == len(losses)
    )
    assert rates == sorted(rates) and min(losses) < losses[0] - 0.5
    assert rates[0] < found["suggestion"] < rates[losses.index(min(losses))]
    assert [path.name for path in folder.iterdir()] == [".prepared"]


def test_the_output_is_a_curve_and_flags_to_copy(call):
    code, out, _ = call("--optimizer", "adamw")
    assert code == 0 and "suggestion: --learning-rate" in out and "--muon" not in out
    losses, bars = zip(
        *((float(row[1]), len(row[2])) for row in map(str.split, out.splitlines()[:-1])),
        strict=True,
    )
    assert (
        bars[losses.index(max(losses))] == max(bars) >= 38
        and bars[losses.index(min(losses))] == min(bars) <= 3
    )


def test_the_rate_of_muon_is_suggested_too(call, few_steps):
    assert "--muon-learning-rate" in call("--optimizer", "muon")[1]


@pytest.mark.parametrize("architecture", ["modern", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_divergence_ends_the_test_without_an_error(call, architecture):
    wild = [
        "--learning-rate",
        "10",
        "--muon-learning-rate",
        "10",
        "--grad-clip",
        "0",
        "--architecture",
        architecture,
    ]
    code, out, err = call("--json", *wild)
    assert code == 0, err
    assert all(map(math.isfinite, json.loads(out)["losses"]))


def test_a_range_test_needs_a_text(call):
    code, out, err = call(texts=())
    assert (code, out) == (2, "") and "TEXT" in err


def test_a_range_test_takes_its_settings_from_a_file_too(call, tmp_path, few_steps):
    (tmp_path / "c.toml").write_text("learning_rate = 0.5\n")
    rates = json.loads(call("--json", "--config", str(tmp_path / "c.toml"))[1])["learning_rates"]
    assert rates[0] == pytest.approx(0.5 * range_test.LOWEST_FACTOR)


def test_a_range_test_of_fine_tuning_begins_with_the_trained_model(call, trained, few_steps):
    losses = json.loads(call("--json", "--from", str(trained / "tiny"))[1])["losses"]
    assert losses[0] < json.loads(call("--json")[1])["losses"][0] - 0.5


def test_the_curve_is_written_as_a_picture_and_the_suggestion_is_explained(
    call, tmp_path, few_steps
):
    path = tmp_path / "rates.svg"
    code, out, err = call("--optimizer", "muon", "--chart", str(path))
    assert code == 0 and "suggested" in path.read_text() and "AdamW" in path.read_text()
    assert "--learning-rate is the rate of AdamW" in err
    assert "--muon-learning-rate is that of Muon" in err and "fell fastest" in err
    assert "AdamW, which trains all weights" in call("--optimizer", "adamw")[2]
    code, out, err = call("--chart", str(path))
    assert (code, out) == (2, "") and "exists" in err
