"""Runs of earlier versions open, score the same and continue (see fixtures/earlier_versions)."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from simplellm.app.cli import main

FIXTURES = ROOT / "tests" / "fixtures" / "earlier_versions"
EXPECTED: dict[str, dict[str, Any]] = json.loads((FIXTURES / "expected.json").read_text())
STOPPED = [name for name in EXPECTED if name.endswith("stopped")]
TOLERANCE = 1e-5  # relative; other processors sum in another order


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """A copy of the runs, whose run.json names the copy of their text."""
    shutil.copytree(FIXTURES / "runs", tmp_path / "checkpoints")
    shutil.copy(FIXTURES / "text.txt", tmp_path)
    for path in tmp_path.glob("checkpoints/*/run.json"):
        info = json.loads(path.read_text(encoding="utf-8"))
        text = str(tmp_path / "text.txt")
        info |= {"texts": [text], "files": [{**info["files"][0], "path": text}]}
        path.write_text(json.dumps(info), encoding="utf-8")
    return tmp_path / "checkpoints"


def result(capsys: pytest.CaptureFixture[str], checkpoints: Path, *arguments: str) -> Any:
    """The JSON object that a command prints."""
    code = main([*arguments, "--checkpoints", str(checkpoints), "--device", "cpu", "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


def test_every_run_is_listed_with_its_figures(capsys, checkpoints):
    rows = {row["run"]: row for row in result(capsys, checkpoints, "runs")}
    assert rows.keys() == EXPECTED.keys()
    assert rows["modern-finished"]["best_step"] == 12 and rows["gpt2-stopped"]["best_step"] == 8


@pytest.mark.parametrize("run", EXPECTED)
def test_a_run_evaluates_to_the_same_digits(capsys, checkpoints, run):
    text = str(checkpoints.parent / "text.txt")
    figures = result(capsys, checkpoints, "evaluate", "--run", run, "--data", text)
    assert figures["loss"] == pytest.approx(EXPECTED[run]["loss"], rel=TOLERANCE)


@pytest.mark.parametrize("run", EXPECTED)
def test_a_run_replies(capsys, checkpoints, run):
    reply = result(
        capsys,
        checkpoints,
        "generate",
        "--run",
        run,
        "--prompt",
        "The judge",
        "--max-new-tokens",
        "9",
        "--temperature",
        "0",
    )
    assert reply["new_tokens"] == 9 and reply["text"]


@pytest.mark.parametrize("run", EXPECTED)
def test_a_run_verifies(capsys, checkpoints, run):
    verified = result(capsys, checkpoints, "verify", run)
    assert verified and all(step["whole"] for step in verified)


@pytest.mark.parametrize("run", STOPPED)
def test_a_stopped_run_ends_as_it_would_have_ended(capsys, checkpoints, run):
    figures = result(capsys, checkpoints, "train", "--resume", "--name", run)
    assert figures["steps"] == 12
    expected = EXPECTED[run]
    assert figures["val_loss"] == pytest.approx(expected["resumed_loss"], rel=TOLERANCE)
    if figures["val_loss"] == expected["resumed_loss"]:  # this processor sums as the first one did
        weights = (checkpoints / run / "step-000012" / "model.safetensors").read_bytes()
        assert hashlib.sha256(weights).hexdigest() == expected["resumed_sha256"]


def test_a_repetition_reports_that_words_are_split_in_another_way_now(capsys, checkpoints):
    recorded = checkpoints / "modern-finished" / "run.json"
    flags = ["--checkpoints", str(checkpoints), "--device", "cpu", "--json"]
    assert main(["train", "--config", str(recorded), *flags]) == 0
    out, err = capsys.readouterr()
    figures = json.loads(out)
    assert figures["run"] == "modern-finished-repeat" and figures["steps"] == 12
    infos = [
        json.loads((checkpoints / name / "run.json").read_text())
        for name in ("modern-finished", figures["run"])
    ]
    assert list(infos[0]["fingerprint"].values()) == list(infos[1]["fingerprint"].values())
    assert infos[0]["tokenizer_fingerprint"] != infos[1]["tokenizer_fingerprint"]
    assert "cannot be repeated" in err and "the tokenizer is another one" in err
