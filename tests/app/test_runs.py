"""The command `runs` with names compares these runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from simplellm.app.cli import main
from simplellm.checkpoint.run import RunFolder


@pytest.fixture
def call(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """`runs` in a folder with `a`, `b` (another rate) and `c` (another text): code, out, err."""
    folder = tmp_path / "runs"
    for name in "abc":
        shutil.copytree(trained / "tiny", folder / name)
    info = RunFolder(folder / "b").read_info()
    RunFolder(folder / "b").write_info(
        {**info, "training": {**info["training"], "learning_rate": 0.5}}
    )
    RunFolder(folder / "c").write_info({**info, "fingerprint": {"c.txt": "0" * 64}})

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["runs", *arguments, "--checkpoints", str(folder)])
        return code, *capsys.readouterr()

    return call


def test_runs_are_compared_by_figures_settings_and_a_picture(call, tmp_path):
    code, out, err = call("a", "b")
    rows = [line.split("\t") for line in out.splitlines()]
    assert code == 0 and rows[0] == ["run", "a", "b"] and rows[-1][0] == "learning_rate"
    assert {"bits/byte", "loss", "steps", "parameters", "seconds"} <= {row[0] for row in rows}
    picture = tmp_path / "runs" / "compare-a-b.svg"
    assert picture.is_file() and f"loss curves: {picture}" in err and "not comparable" not in err


def test_runs_on_other_texts_are_compared_with_a_caution(call):
    code, out, err = call("a", "b", "c", "--json")
    compared = json.loads(out)
    assert code == 0 and [run["run"] for run in compared["runs"]] == ["a", "b", "c"]
    assert compared["differing"]["learning_rate"][1] == 0.5
    assert compared["comparable"] is False and "not comparable" in compared["cautions"][0]
    assert Path(compared["loss_svg"]).is_file()


def test_a_run_that_is_named_twice_is_shown_once(call, tmp_path):
    code, out, err = call("a", "b", str(tmp_path / "runs" / "a"))
    assert code == 0 and out.splitlines()[0] == "run\ta\tb" and "named twice" in err


def test_a_missing_run_is_an_error_that_names_the_others(call, tmp_path):
    code, out, err = call("a", "nope")
    assert (code, out) == (1, "") and "no run nope" in err and "c, b, a" in err
    assert not list((tmp_path / "runs").glob("*.svg"))


def test_one_run_is_shown_with_all_its_settings(call):
    code, out, _ = call("b")
    assert code == 0 and "learning_rate\t0.5" in out and "n_layer\t2" in out


def test_pruning_named_runs_leaves_the_others(call, tmp_path):
    for name in "ab":
        shutil.rmtree(tmp_path / "runs" / name / "step-000010", ignore_errors=True)
        shutil.copytree(tmp_path / "runs" / name / "step-000020",
                        tmp_path / "runs" / name / "step-000010")  # fmt: skip
    assert call("a", "--prune", "--yes")[0] == 0
    assert [(tmp_path / "runs" / name / "step-000010").exists() for name in "ab"] == [False, True]
