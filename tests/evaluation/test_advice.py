"""Advice: what the figures of a run mean, and which figures are worth nothing."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import STORY, TINY_FLAGS

from simplellm.app.cli import main
from simplellm.app.loss_chart import chart_lines
from simplellm.config.model import ModelConfig
from simplellm.config.training import TrainConfig
from simplellm.evaluation.advice import (
    FEWEST_TOKENS,
    Course,
    advice,
    is_too_short,
    missing_figure,
    regularization_of,
    short_validation,
    usual_steps,
)
from simplellm.evaluation.benchmark import Benchmark
from simplellm.evaluation.curves import LossCurves

FALLING = [(10, 5.0), (20, 4.0), (30, 3.5)]
FLAT = [(10, 4.0), (20, 3.5), (30, 3.52)]
RISING = [(10, 4.0), (20, 5.0), (30, 6.0)]


def course(validation: list[tuple[int, float]], train_end: float = 3.0, **changes) -> Course:
    train = [(10, 4.5), (20, 4.0), (30, train_end)]
    values = {"steps": 30, "usual_steps": 30, **changes}
    return Course(curves=LossCurves(train, validation), **values)


def line_with(lines: list[str], start: str) -> str:
    (line,) = [line for line in lines if line.startswith(start)]
    return line


@pytest.mark.parametrize(
    ("validation", "words"),
    [(FALLING, "more time"), (FLAT, "more text, because"), (RISING, "since step 10")],
)
def test_what_to_try_next_follows_from_the_validation_loss(validation, words) -> None:
    assert words in line_with(advice(course(validation)), "what to try next")


@pytest.mark.parametrize(
    ("accuracies", "words"), [((0.3, 0.6), "more time"), ((0.3, 0.98), "more conversations")]
)
def test_a_bot_needs_more_time_until_it_knows_its_replies(accuracies, words) -> None:
    one = course(RISING)
    one.curves.accuracies = accuracies
    assert words in line_with(advice(one), "what to try next")


def test_a_run_that_ended_early_is_not_told_to_use_more_time() -> None:
    lines = advice(course(FALLING, usual_steps=1000, ended_early=True))
    assert "more text, because" in line_with(lines, "what to try next")
    assert not any("warning" in line for line in lines)


@pytest.mark.parametrize(
    ("passes", "words"), [(None, "more time"), (2.0, "--max-epochs"), (4.0, "more text")]
)
def test_a_run_that_its_passes_ended_is_not_told_to_use_more_time(passes, words) -> None:
    lines = advice(course(FALLING, passes=passes, usual_passes=4.0))
    assert words in line_with(lines, "what to try next")


def test_few_steps_are_a_warning_with_both_counts() -> None:
    line = line_with(advice(course(FALLING, usual_steps=491)), "warning")
    assert "30 steps" in line and "491" in line and "--max-steps" in line
    assert not any("warning" in line for line in advice(course(FALLING, usual_steps=100)))


def test_a_training_loss_above_the_validation_loss_is_explained_by_the_regularization() -> None:
    lines = advice(course(FALLING, train_end=4.0, regularization=["dropout", "r_drop"]))
    line = line_with(lines, "the training loss is above")
    assert "--dropout, --r-drop" in line and "4.000 against 3.500" in line
    assert line_with(advice(course(FALLING)), "the training loss is below")


def test_the_regularization_is_read_from_the_settings() -> None:
    model, training = ModelConfig(dropout=0.1), TrainConfig(bpe_dropout=0.2)
    assert regularization_of(model, training) == ["dropout", "bpe_dropout"]
    assert regularization_of(ModelConfig(), TrainConfig()) == []


def test_a_small_text_is_usually_read_many_times_and_a_large_one_once() -> None:
    assert usual_steps(24_000, 6000, 1024) == pytest.approx(85 * 6000 / 1024, abs=1)
    assert usual_steps(24_000, 6000, 1024, is_warm=True) == pytest.approx(12 * 6 / 1.024, abs=1)
    assert usual_steps(1_000_000, 400_000, 2048) == pytest.approx(400_000 / 2048, abs=1)
    assert usual_steps(10**9, 4 * 10**8, 2048) == 500 and usual_steps(0, 0, 1024) == 1


def test_a_validation_text_that_is_too_short_or_copied_has_no_figure() -> None:
    assert missing_figure(500, None) == missing_figure(None, 0.5) == ""
    assert missing_figure(9, 1.0) == "too short" and missing_figure(500, 0.9) == "not held out"


def test_a_text_of_few_tokens_is_too_short_for_a_figure() -> None:
    assert is_too_short(FEWEST_TOKENS - 1) and not is_too_short(FEWEST_TOKENS)
    assert not is_too_short(None)
    assert "1 token (3 bytes)" in short_validation(1, 3) and short_validation(500, 2000) == ""


# ---------------------------------------------------------------- what the commands print


def output(capsys, *words: str) -> tuple[str, str]:
    assert main(list(words)) == 0
    captured = capsys.readouterr()
    return captured.out, captured.err


@dataclass(frozen=True)
class ShortRun:
    """A run whose validation text has three characters, and what its training printed."""

    folder: Path
    out: str
    notices: str

    @property
    def where(self) -> list[str]:
        return ["--checkpoints", str(self.folder / "runs")]


@pytest.fixture(scope="module")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> ShortRun:
    folder = tmp_path_factory.mktemp("short")
    (folder / "abc.txt").write_text("abc")
    words = ["train", str(STORY), "--val-data", str(folder / "abc.txt"), "--max-steps", "2"]
    out, notices = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(notices):
        assert main([*words, "--checkpoints", str(folder / "runs"), *TINY_FLAGS]) == 0
    return ShortRun(folder, out.getvalue(), notices.getvalue())


def test_a_training_on_three_characters_of_validation_text_reports_no_figure(
    short_run: ShortRun,
) -> None:
    before, after = short_run.notices.split("step 2: validation loss")
    assert "too short for a figure" in before and "too short for a figure" in after
    assert "this model" not in after
    assert "too short" in short_run.out and "bits/byte" not in short_run.out


def test_runs_shows_no_figure_of_a_validation_text_that_is_too_short(
    short_run: ShortRun, capsys
) -> None:
    out, err = output(capsys, "runs", *short_run.where)
    assert out.split("\t")[2:4] == ["too short", "too short"] and "lower is better" in err
    out, _ = output(capsys, "runs", "--json", *short_run.where)
    assert json.loads(out)[0]["tokens"] == 3


def test_evaluate_says_that_a_text_is_too_short(short_run: ShortRun, capsys) -> None:
    words = ["evaluate", "--data", str(short_run.folder / "abc.txt")]
    out, err = output(capsys, *words, *short_run.where)
    assert "too short for a figure" in err and "nats per token; lower is better" in out


def test_a_report_explains_itself(trained: Path) -> None:
    report = json.loads((trained / "tiny" / "report.json").read_text())
    lines = report["advice"]
    assert line_with(lines, "warning: 30 steps") and line_with(lines, "what to try next")
    assert line_with(lines, "the training loss is") and report["too_short"] == ""


def test_bench_says_which_direction_is_better(capsys, monkeypatch) -> None:
    measured = Benchmark(1000.0, 10, "cpu", "float32", 1, None, "transformers", 500.0, 2.0)
    monkeypatch.setattr("simplellm.app.subcommands.bench.bench_generate", lambda *_, **__: measured)
    out, _ = output(capsys, "bench", "generate", "--device", "cpu")
    rows = {line.split("\t")[0]: line.split("\t")[-1] for line in out.splitlines()}
    assert rows["tokens per second"] == "higher is better"
    assert rows["peak memory bytes"] == "lower is better" and "over 1" in rows["ratio"]


def test_the_panel_names_unit_and_direction_of_its_curve() -> None:
    lines = chart_lines(LossCurves([(1, 5.0), (2, 4.0)], [(2, 4.5)]), 80, 5)
    assert "loss in nats/token, lower is better" in "".join(text for text, _ in lines[-1])
