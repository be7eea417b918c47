"""Where a training starts: from the base model of the package, another model, or random weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import STORY, TINY_FLAGS
from small_runs import digests, training_context

from simplellm.app.cli import main
from simplellm.app.options import SweepOptions
from simplellm.app.screen import Screen
from simplellm.app.subcommands.shared import StartingPoint
from simplellm.app.subcommands.sweep import _starting_point
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.run_log import read_log
from simplellm.storage.files import sha256_of
from simplellm.training.resume import resume
from simplellm.training.sources import Sources
from simplellm.training.start import start

SHORT = ["--max-steps", "2", "--eval-interval", "2", "--precision", "float32", "--device", "cpu"]
NEW = "starting from random weights"
COLD = ["--from", "none", *TINY_FLAGS]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """The beginning of the story, so that it is prepared quickly."""
    path = tmp_path / "text.txt"
    path.write_text(STORY.read_text(encoding="utf-8")[:6000], encoding="utf-8")
    return path


@pytest.fixture
def train(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[RunFolder, str]]:
    """Trains a short run on the text; returns it and what the command wrote on stderr."""

    def train(*flags: str, name: str = "run") -> tuple[RunFolder, str]:
        arguments = ["train", str(text), "--name", name, "--checkpoints", str(tmp_path / "runs")]
        assert main([*arguments, *SHORT, *flags]) == 0
        return RunFolder(tmp_path / "runs" / name), capsys.readouterr().err

    return train


@pytest.fixture
def pays(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Sets whether starting from the base model is said to pay."""

    def set_answer(answer: bool) -> None:
        monkeypatch.setattr("simplellm.training.base_choice.pays_to_start_warm", lambda *_: answer)

    return set_answer


def test_a_training_starts_from_the_base_model_where_that_pays(train, small_base, pays):
    pays(True)
    run, err = train()
    info = run.read_info()
    (line,) = [line for line in err.splitlines() if line.startswith("starting from")]
    assert line.startswith("starting from the base model: ") and "on a sample of this text" in line
    assert (info["from"], info["start"]) == ("base", line)
    assert info["from_sha256"] == sha256_of(small_base / "model.safetensors")
    assert info["model"]["n_layer"] == 2 and info["model"]["vocab_size"] == 384


def test_a_training_starts_from_random_weights_where_the_base_does_not_pay(train, small_base, pays):
    pays(False)
    run, err = train(*TINY_FLAGS)
    assert f"{NEW}, not the base model: " in err and "on a sample of this text" in err
    assert run.read_info()["from"] is None


def test_none_is_random_weights_and_base_forces_the_base(train, small_base, pays):
    pays(True)
    new, err = train(*COLD, name="new")
    assert new.read_info()["from"] is None and "starting from" not in err
    pays(False)
    forced, err = train("--from", "base", name="forced")
    assert forced.read_info()["from"] == "base" and "starting from" not in err


def test_without_a_base_model_only_from_base_is_an_error(train, tmp_path, capsys):
    run, err = train(*TINY_FLAGS)
    assert run.read_info()["from"] is None and "base model" not in err
    folder = tmp_path / "refused"
    code = main(["train", str(STORY), "--from", "base", "--checkpoints", str(folder)])
    err = capsys.readouterr().err
    assert code == 1 and "no base model" in err and "--from none" in err
    assert len(err.splitlines()) <= 2 and not folder.exists()


def test_settings_that_contradict_the_base_mean_random_weights(train, small_base, pays):
    pays(True)
    run, err = train(*TINY_FLAGS, "--n-layer", "1", "--max-steps", "1")
    assert f"{NEW}: --n-layer 1" in err and run.read_info()["from"] is None


def test_settings_that_fit_the_base_start_from_it(train, small_base, pays):
    pays(True)
    run, _ = train("--n-layer", "2", "--block-size", "16", "--dropout", "0.2", "--freeze", "1")
    info = run.read_info()
    assert (info["from"], info["model"]["block_size"]) == ("base", 16)


def test_a_damaged_base_is_not_used(train, small_base, tmp_path, capsys):
    weights = small_base / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    run, err = train(*TINY_FLAGS)
    assert f"{NEW}, because the base model is unusable" in err and run.read_info()["from"] is None
    code = main(["train", str(STORY), "--from", "base", "--checkpoints", str(tmp_path / "x")])
    assert code == 1 and "damaged" in capsys.readouterr().err


def test_a_resumed_run_needs_no_base_model(small_base, pays, text, tmp_path):
    pays(True)
    given: dict[str, Any] = {"max_steps": 4, "eval_interval": 2, "precision": "float32"}

    def begin(name: str, stop_after: int | None = None) -> None:
        context = training_context(tmp_path, stop_after)
        start(Sources((str(text),)), given, name, context, may_choose_base=True)

    begin("whole")
    begin("cut", stop_after=3)
    shutil.rmtree(small_base)
    assert resume(RunFolder(tmp_path / "cut"), {}, training_context(tmp_path)).steps == 4
    assert digests(RunFolder(tmp_path / "cut")) == digests(RunFolder(tmp_path / "whole"))


def test_a_repeated_run_starts_as_the_recorded_one(train, small_base, pays, tmp_path, capsys):
    pays(True)
    warm, _ = train(name="warm")
    new, _ = train(*COLD, name="new")
    for run in (warm, new):
        folder = tmp_path / "runs"
        command = ["train", "--config", str(run.path / "run.json"), "--name", f"{run.name}-again"]
        assert main([*command, "--checkpoints", str(folder)]) == 0
        again = RunFolder(folder / f"{run.name}-again")
        assert digests(again) == digests(run)
        assert again.read_info()["from"] == run.read_info()["from"]
    shutil.rmtree(small_base)
    assert main(["train", "--config", str(warm.path / "run.json"), "--checkpoints", str(folder)])
    assert "no base model" in capsys.readouterr().err


def test_a_resume_that_names_another_start_is_refused(train, small_base, pays, capsys):
    pays(True)
    run, _ = train()
    shutil.rmtree(small_base)
    command = ["train", "--resume", "--name", run.name, "--checkpoints", str(run.path.parent)]
    assert main([*command, "--from", "base"]) == 0  # the same start, which is not needed again
    capsys.readouterr()
    assert main([*command, "--from", "none"]) == 2
    assert "the base model" in capsys.readouterr().err


def test_the_base_itself_is_step_0_and_can_be_the_best(train, small_base, pays):
    pays(True)
    run, err = train("--learning-rate", "5", "--muon-learning-rate", "5")
    evaluations = [record for record in read_log(run.log_path) if record["kind"] == "evaluation"]
    assert [record["step"] for record in evaluations] == [0, 2]
    assert evaluations[0]["best"] and not evaluations[1]["best"]
    best = run.pointer("best")
    assert best is not None and best["step"] == 0
    assert (
        f"this model {best['bits_per_byte']:.3f}, base untouched {best['bits_per_byte']:.3f}" in err
    )


def test_a_sweep_starts_from_random_weights_where_one_of_its_runs_has_another_shape(
    small_base, capsys
):
    def begin(*grid: dict[str, Any], base: str | None = None) -> StartingPoint:
        return _starting_point(list(grid), SweepOptions(base=base), Screen(color=False))

    assert begin({"dropout": 0.0}, {"dropout": 0.2}) == StartingPoint(is_chosen=True)
    assert begin({"architecture": "modern"}, {"architecture": "gpt2"}) == StartingPoint()
    assert "every run starts from random weights: --architecture gpt2" in capsys.readouterr().err
    assert begin({"dropout": 0.0}, base="none") == StartingPoint()
    assert begin({"dropout": 0.0}, base="base") == StartingPoint(small_base)


@pytest.mark.slow
def test_the_runs_of_a_sweep_start_alike(small_base, pays, tmp_path, capsys):
    pays(True)

    def starts(folder: str, *flags: str) -> set[str | None]:
        path = tmp_path / folder
        assert main(["sweep", str(STORY), *SHORT, "--checkpoints", str(path), *flags]) == 0
        return {RunFolder(file.parent).read_info()["from"] for file in path.glob("*/run.json")}

    shape = ["--n-layer", "2", "--n-embd", "32"]
    assert starts("architectures", "--architecture", "modern,gpt2", *shape) == {None}
    assert "every run starts from random weights: --architecture gpt2" in capsys.readouterr().err
    assert starts("rates", "--dropout", "0,0.2") == {"base"}
    assert starts("new", "--dropout", "0,0.2", *shape, "--from", "none") == {None}


def test_the_base_can_be_used_like_a_run(small_base, capsys, tmp_path):
    command = ["evaluate", "--data", str(STORY), "--json", "--checkpoints", str(tmp_path / "none")]
    assert main([*command, "--run", "base"]) == 0
    assert '"bits_per_byte"' in capsys.readouterr().out
