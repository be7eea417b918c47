"""A sweep trains every combination, and puts the best first."""

from __future__ import annotations

import io
import itertools
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from conftest import NO_AUGMENTATION, STORY, TINY_FLAGS

from simplellm.app.cli import main
from simplellm.app.subcommands import sweep
from simplellm.config.conversations import ConversationLengths
from simplellm.config.equal_settings import FirstRun
from simplellm.config.recipe import choose
from simplellm.data.conversations.options import ReadOptions
from simplellm.errors import SettingError, TextError
from simplellm.training.sources import Sources

KEYS = ["run", "path", "steps", "best_step", "val_loss", "bits_per_byte", "train_seconds"]


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str], quick_constants: None):
    """A sweep of tiny runs on the story: (exit code, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        flags = ["--checkpoints", str(tmp_path), *TINY_FLAGS, *NO_AUGMENTATION]
        code = main(["sweep", str(STORY), *flags, *arguments])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The settings of each started run. The first run ends before its training."""
    given: list[dict[str, Any]] = []

    def start(
        sources: Any, settings: dict[str, Any], name: str, context: Any, *_: Any, **__: Any
    ) -> Any:
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
    assert {row[-1] for row in rows} == {
        "sweep-the-verdict-beta1-0.8",
        "sweep-the-verdict-beta1-0.9",
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


def test_seeds_can_be_swept(call, tmp_path):
    code, out, err = call("--seed", "1,2", "--max-steps", "1")
    assert code == 0 and {row["seed"] for row in recorded(tmp_path)} == {1, 2}
    assert {line.split("\t")[-1] for line in out.splitlines()} == {
        "sweep-the-verdict-seed-1", "sweep-the-verdict-seed-2",
    }  # fmt: skip
    assert "bits/byte over 2 seeds: mean " in err


@pytest.mark.parametrize("seeds", ["1,x", "1,", "-1,2", ""])
def test_a_bad_seed_in_a_list_is_refused_before_anything_runs(call, started, seeds):
    code, out, err = call(f"--seed={seeds}", "--max-steps", "1")
    assert (code, out, started) == (2, "", []) and "seed" in err


def test_several_seeds_of_a_single_training_are_refused(tmp_path, capsys):
    code = main(["train", str(STORY), "--seed", "1,2", "--checkpoints", str(tmp_path)])
    assert code == 2 and "seed" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_run_that_fails_does_not_end_the_sweep(call, monkeypatch):
    failures = {
        0.6: SettingError("these values do not fit", fix="change one"),
        0.7: TextError("the text is too short", fix="more text"),
        0.8: MemoryError(),
    }
    original = sweep.start

    def start(sources: Any, settings: Any, name: str, context: Any, *_: Any, **__: Any) -> Any:
        if settings["beta1"] in failures:
            raise failures[settings["beta1"]]
        return original(sources, settings, name, context)

    monkeypatch.setattr(sweep, "start", start)
    code, out, err = call("--beta1", "0.6,0.7,0.8,0.9", "--max-steps", "1", "--json")
    assert code == 1 and [row["beta1"] for row in json.loads(out)] == [0.9]
    assert err.count("error: ") == 3 and "1 of 4 runs finished" in err


def test_an_error_of_the_text_is_not_reported_for_every_run(call, capsys, tmp_path):
    flags = ["--beta1", "0.7,0.8,0.9", "--checkpoints", str(tmp_path)]
    assert main(["sweep", str(tmp_path / "missing.txt"), *flags]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("error: ") == 1 and "run 3" not in err


@pytest.mark.parametrize(("end", "code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
def test_a_signal_ends_the_sweep_after_the_table_of_the_finished_runs(call, monkeypatch, end, code):
    original = sweep.start

    def start(sources: Any, settings: Any, name: str, context: Any, *_: Any, **__: Any) -> Any:
        if settings["beta1"] == 0.8:
            raise end
        return original(sources, settings, name, context)

    monkeypatch.setattr(sweep, "start", start)
    returned, out, _ = call("--beta1", "0.7,0.8,0.9", "--max-steps", "1")
    assert returned == code and [row.split("\t")[0] for row in out.splitlines()] == ["0.7"]


def recorded(folder: Path) -> list[dict[str, Any]]:
    """Model and training settings of each run."""
    infos = [json.loads(path.read_text()) for path in sorted(folder.glob("*/run.json"))]
    return [{**info["model"], **info["training"]} for info in infos]


def test_what_a_sweep_does_not_name_is_equal_in_all_runs(call, tmp_path):
    code, out, err = call("--architecture", "modern,gpt2", "--max-steps", "2", "--json")
    gpt2, modern = recorded(tmp_path)
    assert code == 0
    assert {name for name in modern if modern[name] != gpt2[name]} == {"architecture"}
    assert "learning_rate 0.003 (recipe: 0.001)" in err and "weight_decay 0 (recipe: 0.1)" in err
    rows = json.loads(out)
    assert {row["parameters"] for row in rows} and len({row["loss_svg"] for row in rows}) == 1
    assert Path(rows[0]["loss_svg"]).is_file()


def test_settings_that_cannot_be_equal_are_columns_of_the_table(call, tmp_path):
    """R-Drop needs dropout, so a run without dropout has none."""
    code, out, err = call("--dropout", "0.3,0", "--max-steps", "2")
    first, second = recorded(tmp_path)
    differing = {name for name in first if first[name] != second[name]}
    assert code == 0 and differing == {"dropout", "r_drop"}
    cells = {tuple(line.split("\t")[:2]) for line in out.splitlines()}
    assert cells == {("0.3", "2"), ("0", "0")} and "r_drop: not named in the sweep" in err


def test_a_sweep_of_one_combination_trains_it_and_says_so(call):
    code, out, err = call("--beta1", "0.8,0.8", "--max-steps", "1")
    assert code == 0 and len(out.splitlines()) == 1
    assert "there is nothing to compare; separate values by commas" in err


def test_every_run_of_a_sweep_reads_the_whole_standard_input(tmp_path, monkeypatch, capsys):
    stdin = types.SimpleNamespace(buffer=io.BytesIO(STORY.read_bytes()), isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", stdin)
    flags = ["--beta1", "0.8,0.9", "--max-steps", "1", "--checkpoints", str(tmp_path)]
    assert main(["sweep", "-", *flags, *TINY_FLAGS]) == 0, capsys.readouterr().err
    texts = [json.loads(path.read_text())["fingerprint"] for path in tmp_path.glob("*/run.json")]
    assert len(texts) == 2 and texts[0] == texts[1]


def test_long_names_of_runs_still_say_what_differs(tmp_path):
    swept = ["learning_rate", "muon_learning_rate", "gradient_accumulation"]
    settings = dict.fromkeys(swept, 1)
    names = [
        sweep._run_name("a-very-long-name-of-a-text.txt", {**settings, "learning_rate": value},
                        swept, tmp_path)
        for value in (0.001, 0.01)
    ]  # fmt: skip
    assert names == [f"sweep-a-very-long-name-of-{value}-1-1" for value in (0.001, 0.01)]


def test_overfit_can_be_swept_although_it_changes_many_settings(call, tmp_path):
    code, out, _ = call("--overfit", "off,on", "--max-steps", "2", "--json")
    rows = {row["overfit"]: row for row in json.loads(out)}
    assert code == 0 and rows[True]["r_drop"] == 0 and rows[False]["r_drop"] > 0
    assert {"dropout", "token_noise"} <= set(rows[True]) and "learning_rate" not in rows[True]


def test_a_sweep_reads_conversations_as_a_training_does(call, monkeypatch):
    named: list[Sources] = []

    def start(sources: Sources, *_: Any, **__: Any) -> Any:
        named.append(sources)
        raise SystemExit(9)

    monkeypatch.setattr(sweep, "start", start)
    flags = ("--me", "유나", "--gap", "2h", "--format", "whatsapp", "--val-data", "held-out.txt")
    assert call(*flags)[0] == 9
    assert named[0].reading == ReadOptions("whatsapp", "유나", 7200.0)
    assert named[0].val_data == "held-out.txt"


def test_the_runs_of_a_sweep_follow_the_recipe_for_conversations():
    lengths = ConversationLengths(200, 900)
    model, training = choose(84_000, {}, lengths=lengths)
    values = {**model.to_mapping(), **training.to_mapping()}
    first = FirstRun(values, 84_000, has_fixed_steps=False, lengths=lengths)
    assert first.overruled({"seed": 2}) == []
    assert first.equalized({"seed": 2})["label_smoothing"] == training.label_smoothing
