"""A run is repeated from its run.json bit for bit, or it is said what cannot be repeated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import STORY
from small_runs import digests, slow_steps, training_context

from simplellm.checkpoint.run import RunFolder
from simplellm.data.source import TextFormat
from simplellm.errors import CheckpointError, SettingError, TextError
from simplellm.training.repetition import Repetition
from simplellm.training.resume import resume
from simplellm.training.sources import Sources
from simplellm.training.start import start

SETTINGS = {
    "n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16, "vocab_size": 300, "batch_size": 2,
    "eval_tokens": 64, "log_interval": 1, "precision": "float32", "bpe_dropout": 0.0,
    "renaming": 0.0,
}  # fmt: skip
RANDOM = {"dropout": 0.2, "bpe_dropout": 0.1, "renaming": 0.5}


def train(folder: Path, name: str, stop_after: int | None = None, **given: Any) -> RunFolder:
    context = training_context(folder, stop_after)
    start(Sources((str(STORY),)), {**SETTINGS, **given}, name, context)
    return RunFolder(folder / name)


def repeat(
    run: RunFolder,
    name: str = "again",
    texts: tuple[str, ...] = (),
    stop_after: int | None = None,
    **overrides: Any,
) -> tuple[RunFolder, str]:
    """The repetition of a run, and its notices."""
    notices: list[str] = []
    repetition = Repetition.read(run.path / "run.json", overrides)
    sources = repetition.sources(texts, None, TextFormat())
    context = training_context(run.path.parent, stop_after, notices.append)
    start(sources, {}, name, context, repetition.base_folder, repetition)
    return RunFolder(run.path.parent / name), "\n".join(notices)


def test_a_repeated_run_has_the_same_weights_and_record(tmp_path):
    run = train(tmp_path, "run", max_steps=6, eval_interval=3, seed=5, **RANDOM)
    again, notices = repeat(run)
    assert digests(again) == digests(run)
    assert "same text, settings and versions give the same weights" in notices
    then, now = run.read_info(), again.read_info()
    assert all(now[key] == then[key] for key in ("model", "training", "given", "fingerprint"))
    assert now["repeats"] == "run"


def test_the_decisions_of_a_budget_are_repeated_however_fast_the_machine_is(tmp_path, monkeypatch):
    with monkeypatch.context() as slow:
        slow_steps(slow)
        run = train(tmp_path, "run", budget=2.0)
    again, _ = repeat(run)
    assert run.read_info()["decisions"] == again.read_info()["decisions"]
    assert again.last().name == run.last().name and digests(again) == digests(run)
    assert again.read_info()["training"] == run.read_info()["training"]


def test_a_repetition_that_is_resumed_has_the_same_weights(tmp_path):
    run = train(tmp_path, "run", max_steps=6, eval_interval=3)
    again, _ = repeat(run, stop_after=2)
    resume(again, {}, training_context(tmp_path))
    assert digests(again) == digests(run)


def test_an_interrupted_run_that_was_resumed_is_repeated_as_one(tmp_path):
    run = train(tmp_path, "run", stop_after=2, max_steps=5)
    resume(run, {}, training_context(tmp_path))
    again, notices = repeat(run)
    assert digests(again) == digests(run) and "cannot" not in notices


def test_a_run_that_was_resumed_with_changes_names_them(tmp_path):
    run = train(tmp_path, "run", max_steps=3)
    resume(run, {"max_steps": 5}, training_context(tmp_path))
    _, notices = repeat(run)
    assert "cannot be repeated: from step 3 on it was trained with changes" in notices
    assert "max_steps 3 became 5" in notices


def test_changes_that_an_earlier_version_accepted_are_named(tmp_path):
    run = train(tmp_path, "run", max_steps=1)
    entry = {"what": "the text changed", "when": "then", "step": 1}
    run.write_info({**run.read_info(), "accepted_changes": [entry]})
    assert "with changes (the text changed)" in repeat(run)[1]


def test_a_run_that_was_stopped_is_repeated_to_its_planned_end(tmp_path):
    run = train(tmp_path, "run", stop_after=2, max_steps=4, eval_interval=2)
    again, notices = repeat(run)
    assert "run was stopped at step 2; this training goes on to the planned step 4" in notices
    weights = [folder / "step-000002" / "model.safetensors" for folder in (run.path, again.path)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_resume_on_other_versions_or_another_device_is_reported_and_recorded(tmp_path):
    run = train(tmp_path, "run", stop_after=2, max_steps=4)
    info = run.read_info()
    versions = {**info["versions"], "torch": "1.0"}
    run.write_info({**info, "device": "cuda (H100), float32", "versions": versions})
    notices: list[str] = []
    resume(run, {}, training_context(tmp_path, notice=notices.append))
    assert sum("not bit for bit" in notice for notice in notices) == 2
    assert [part["step"] for part in run.read_info()["resumed"]] == [2]
    assert "from step 2 on it was trained with changes (the device was cuda" in repeat(run)[1]


def test_a_run_from_a_base_is_repeated_from_the_same_weights(tmp_path):
    base = train(tmp_path, "base", max_steps=2)
    context = training_context(tmp_path)
    start(
        Sources((str(STORY),)), {"max_steps": 3, "eval_tokens": 64}, "tuned", context, base.last()
    )
    again, _ = repeat(RunFolder(tmp_path / "tuned"))
    assert digests(again) == digests(RunFolder(tmp_path / "tuned"))
    shutil.rmtree(base.path)
    with pytest.raises(CheckpointError, match="no longer at"):
        repeat(RunFolder(tmp_path / "tuned"), "third")


def test_settings_given_beside_override_and_are_reported(tmp_path):
    run = train(tmp_path, "run", max_steps=3)
    again, notices = repeat(run, learning_rate=0.5, seed=1337)
    assert "changed from run: learning_rate 0.003 became 0.5" in notices
    assert again.read_info()["training"] == {
        **run.read_info()["training"],
        "learning_rate": 0.5,
    }


@pytest.mark.parametrize("limits", [{"max_steps": 2}, {"max_epochs": 0.01}, {"budget": 2.5}])
def test_another_limit_plans_the_steps_anew(tmp_path, monkeypatch, limits):
    slow_steps(monkeypatch)
    run = train(tmp_path, "run", budget=2.0, max_steps=10)
    again, _ = repeat(run, **limits)
    training = again.read_info()["training"]
    assert {name: training[name] for name in limits} == limits
    assert (training["budget"] is None) == ("budget" not in limits)


def test_another_text_is_reported_and_a_moved_text_can_be_named(tmp_path, story):
    first, moved, other = (tmp_path / name for name in ("a.txt", "b.txt", "c.txt"))
    first.write_text(story)
    context = training_context(tmp_path)
    start(Sources((str(first),)), {**SETTINGS, "max_steps": 2}, "run", context)
    run = RunFolder(tmp_path / "run")
    first.rename(moved)
    with pytest.raises(TextError, match=r"no longer at .*a\.txt"):
        repeat(run)
    again, notices = repeat(run, texts=(str(moved),))
    assert digests(again) == digests(run) and "cannot" not in notices
    other.write_text(story[:-50])
    _, notices = repeat(run, "third", texts=(str(other),))
    assert "cannot be repeated: the text is another one" in notices and "c.txt" in notices


def test_another_device_version_or_number_of_processes_is_reported(tmp_path):
    run = train(tmp_path, "run", max_steps=1)
    info = run.read_info()
    versions = {**info["versions"], "torch": "1.0"}
    run.write_info({**info, "device": "cuda (H100), bf16", "world_size": 4, "versions": versions})
    _, notices = repeat(run)
    for words in ("the device was cuda", "4 processes trained it, now 1", "torch was 1.0, now"):
        assert words in notices


def test_a_run_from_standard_input_needs_its_text_again(tmp_path):
    run = train(tmp_path, "run", max_steps=1)
    info = run.read_info()
    run.write_info(
        {**info, "texts": ["-"], "fingerprint": {"-": [*info["fingerprint"].values()][0]}}
    )
    with pytest.raises(SettingError, match="standard input"):
        repeat(run)
    again, notices = repeat(run, texts=(str(STORY),))
    assert digests(again) == digests(run) and "cannot" not in notices


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"fingerprint": {}}', '{"fingerprint": 5, "given": 3}']
)
def test_a_file_that_is_no_run_json_is_one_error_of_the_command_line(tmp_path, content):
    path = tmp_path / "run.json"
    path.write_text(content)
    with pytest.raises(SettingError, match=r"run\.json is not the run\.json of a training"):
        Repetition.read(path, {})


def test_a_damaged_setting_or_decision_is_refused(tmp_path):
    run = train(tmp_path, "run", max_steps=1)
    info = run.read_info()
    for change in ({"training": {"learning_rat": 1}}, {"decisions": [{"step": "x"}]}):
        (tmp_path / "x.json").write_text(json.dumps({**info, **change}))
        with pytest.raises(SettingError):
            Repetition.read(tmp_path / "x.json", {})
