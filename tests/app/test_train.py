"""The command `train`: repetitions, and flags that do not fit together."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from conftest import STORY, TINY_FLAGS

from simplellm.app.cli import main
from simplellm.checkpoint.run import RunFolder


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """`train`: (exit code, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["train", *arguments, "--checkpoints", str(tmp_path)])
        return code, *capsys.readouterr()

    return call


def test_the_end_of_a_training_shows_the_command_that_repeats_it(call, tmp_path):
    flags = ["--name", "my run".replace(" ", "-"), "--max-steps", "3", *TINY_FLAGS]
    code, _, err = call(str(STORY), *flags)
    shown = next(line for line in err.splitlines() if line.startswith("repeat it: "))
    words = shlex.split(shown.removeprefix("repeat it: simplellm "))
    assert code == 0 and words[:2] == ["train", "--config"]
    assert main([*words, "--device", "cpu"]) == 0
    weights = [
        (tmp_path / name / "step-000003" / "model.safetensors").read_bytes()
        for name in ("my-run", "my-run-repeat")
    ]
    assert weights[0] == weights[1]


def test_a_run_json_is_refused_where_nothing_is_repeated(call, trained):
    recorded = str(trained / "tiny" / "run.json")
    for flags in (["--resume", "--name", "tiny"], [str(STORY), "--find-lr"]):
        code, _, err = call("--config", recorded, *flags)
        assert code == 2 and "only a new training can repeat" in err and len(err.splitlines()) == 2


def test_a_missing_run_json_is_an_error_of_the_command_line(call, tmp_path):
    code, _, err = call("--config", str(tmp_path / "nope" / "run.json"))
    assert code == 2 and "cannot read" in err and not list(tmp_path.iterdir())


def test_the_folder_of_a_run_stands_for_its_run_json(call, trained, tmp_path):
    code, _, _ = call("--config", str(trained / "tiny"), "--max-steps", "1", "--name", "x")
    assert code == 0 and RunFolder(tmp_path / "x").read_info()["repeats"] == "tiny"


@pytest.mark.parametrize(
    "flags",
    [
        ["--val-data", str(STORY)],
        ["--encoding", "cp949"],
        ["--text-key", "content"],
        ["--skip-bad"],
        ["--val-fraction", "0.3"],
        ["--run", "other"],
        ["--from", "tiny"],
    ],
)
def test_a_flag_that_a_resumed_run_would_ignore_is_refused(trained, capsys, flags):
    run = ["--resume", "--name", "tiny", "--max-steps", "31", "--checkpoints", str(trained)]
    code = main(["train", *run, *flags])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "") and len(err.splitlines()) == 2 and err.startswith("error: ")
    assert RunFolder(trained / "tiny").read_info()["training"]["max_steps"] == 30
