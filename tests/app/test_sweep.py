"""A sweep trains every combination, and puts the best first."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import STORY, TINY_FLAGS

from simplellm.app.cli import main
from simplellm.app.subcommands import sweep

KEYS = ["run", "path", "steps", "best_step", "val_loss", "bits_per_byte", "train_seconds"]


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A sweep of tiny runs on the story: (exit code, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["sweep", str(STORY), "--checkpoints", str(tmp_path), *TINY_FLAGS, *arguments])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The settings of each started run. The first run ends before its training."""
    given: list[dict[str, Any]] = []

    def start(sources: Any, settings: dict[str, Any], name: str, context: Any) -> Any:
        given.append(settings)
        raise SystemExit(9)

    monkeypatch.setattr(sweep, "start", start)
    return given


def test_a_grid_of_2_by_2_is_4_rows_with_the_best_first(call):
    code, out, _ = call(
        "--learning-rate", "1e-5,1e-2", "--dropout", "0.1,0.5", "--max-steps", "8", "--json"
    )
    rows = json.loads(out)
    assert code == 0 and isinstance(rows, list) and all(set(KEYS) <= set(row) for row in rows)
    combinations = {(row["learning_rate"], row["dropout"]) for row in rows}
    assert len(rows) == 4 and combinations == set(itertools.product((1e-5, 1e-2), (0.1, 0.5)))
    figures = [row["bits_per_byte"] for row in rows]
    assert figures == sorted(figures) and rows[0]["learning_rate"] == 1e-2
    assert len({row["run"] for row in rows}) == 4 and all(
        Path(row["path"], "manifest.json").is_file() for row in rows
    )
    for row in rows:
        recorded = json.loads(Path(row["path"]).parent.joinpath("run.json").read_text())
        assert recorded["training"]["learning_rate"] == row["learning_rate"]
        assert recorded["model"]["dropout"] == row["dropout"]


def test_the_table_shows_the_swept_settings_and_a_row_for_each_run(call):
    code, out, err = call("--beta1", "0.8,0.9", "--max-steps", "1")
    rows = [line.split("\t") for line in out.splitlines()]  # as a pipe gets them
    assert code == 0 and sorted(row[0] for row in rows) == ["0.8", "0.9"]
    assert [len(row) for row in rows] == [6, 6] and {row[-1] for row in rows} == {
        "sweep-the-verdict",
        "sweep-the-verdict-2",
    }
    assert "run 1 of 2: beta1 0.8" in err and "run 2 of 2: beta1 0.9" in err


@pytest.mark.parametrize(
    ("flag", "values"),
    [
        ("--dropout", "0.1,2"),
        ("--dropout", "0.1,"),
        ("--n-layer", "1,x"),
        ("--schedule", "wsd,slow"),
        ("--budget", "5s,soon"),
    ],
)
def test_a_bad_value_in_a_list_is_refused_before_anything_runs(
    call, started, tmp_path, flag, values
):
    code, out, err = call(flag, values)
    assert (
        (code, out, started) == (2, "", [])
        and err.startswith("error: ")
        and len(err.splitlines()) <= 2
    )
    assert list(tmp_path.iterdir()) == []


def test_values_that_do_not_fit_together_are_refused_before_anything_runs(call, tmp_path):
    code, out, err = call("--n-embd", "32,33", "--max-steps", "1")
    assert (code, out) == (2, "") and "n_head" in err
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_of_too_many_runs_is_refused(call, started):
    many = ",".join(str(n) for n in range(1, 12))
    code, _, err = call("--warmup-steps", many, "--batch-size", many)
    assert (code, started) == (2, []) and "121" in err


def test_texts_numbers_and_switches_can_be_swept(call, started):
    assert (
        call("--tie-embeddings", "false,true", "--schedule", "wsd,cosine", "--budget", "1m")[0] == 9
    )
    assert (started[0]["tie_embeddings"], started[0]["schedule"], started[0]["budget"]) == (
        False,
        "wsd",
        60.0,
    )


def test_all_runs_have_the_given_seed(call, started):
    call("--seed", "5", "--max-steps", "1")
    assert started[0]["seed"] == 5
