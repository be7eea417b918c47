"""A limit or a source given at a resume takes effect, or is refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import STORY
from small_runs import slow_steps, training_context

from simplellm.checkpoint.run import RunFolder
from simplellm.data.source import TextFormat
from simplellm.errors import CheckpointError, SettingError, TextError
from simplellm.training.resume import resume
from simplellm.training.resume_sources import NamedSources
from simplellm.training.sources import Sources
from simplellm.training.start import start

TINY = {
    "n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16, "vocab_size": 300, "batch_size": 8,
    "eval_tokens": 64, "precision": "float32", "bpe_dropout": 0.0, "renaming": 0.0, "patience": 0,
}  # fmt: skip


def trained(folder: Path, stop_after: int | None = None, **given: Any) -> RunFolder:
    context = training_context(folder, stop_after)
    start(Sources((str(STORY),)), {**TINY, **given}, "run", context)
    return RunFolder(folder / "run")


def resumed(run: RunFolder, **given: Any) -> dict[str, Any]:
    """The training settings in run.json after a resume with settings."""
    resume(run, given, training_context(run.path.parent))
    training: dict[str, Any] = run.read_info()["training"]
    return training


def steps(run: RunFolder) -> int:
    return int((run.pointer("last") or {})["step"])


@pytest.mark.parametrize("stop_after", [None, 1])
def test_more_epochs_train_longer_whatever_ended_the_run(tmp_path, stop_after):
    run = trained(tmp_path, stop_after, max_epochs=0.05)
    planned = run.read_info()["training"]["max_steps"]
    training = resumed(run, max_epochs=0.1)
    assert steps(run) == training["max_steps"] > planned >= 2
    assert (training["max_epochs"], run.read_info()["given"]["max_epochs"]) == (0.1, 0.1)


def test_epochs_replace_an_earlier_number_of_steps_and_steps_earlier_epochs(tmp_path):
    run = trained(tmp_path, max_steps=2)
    training = resumed(run, max_epochs=0.1)
    assert steps(run) == training["max_steps"] > 2
    assert resumed(run, max_steps=steps(run) + 1)["max_epochs"] is None


def test_a_budget_trains_a_run_longer_that_was_ended_by_steps(tmp_path, monkeypatch):
    slow_steps(monkeypatch)
    run = trained(tmp_path, max_steps=2)
    training = resumed(run, budget=4.0)
    assert steps(run) == training["max_steps"] > 2 and training["budget"] == 4.0
    assert "max_steps" not in run.read_info()["given"]


@pytest.mark.parametrize("stop_after", [None, 3])
@pytest.mark.parametrize(
    ("given", "what", "fix"),
    [
        ({"budget": 0.001}, r"has trained for \d+ s, got a budget of 0.001 s", "--budget "),
        ({"max_epochs": 0.001}, "max_epochs 0.001 ends it", "--max-epochs "),
        ({"max_steps": 1}, r"has done \d steps, got max_steps 1", "--max-steps "),
    ],
)
def test_a_limit_that_is_passed_already_is_refused(tmp_path, stop_after, given, what, fix):
    run = trained(tmp_path, stop_after, max_steps=4)
    before = (run.path / "run.json").read_bytes()
    with pytest.raises(SettingError, match=what) as caught:
        resumed(run, **given)
    assert fix in caught.value.fix and (run.path / "run.json").read_bytes() == before


def test_a_longer_budget_of_a_run_that_epochs_end_is_refused(tmp_path):
    run = trained(tmp_path, budget=60.0, max_epochs=0.05)
    with pytest.raises(SettingError, match=r"max_epochs 0\.05 ends it") as caught:
        resumed(run, budget=120.0)
    assert "--max-epochs" in caught.value.fix


@pytest.mark.parametrize("given", [{"patience": 5}, {"eval_interval": 3}, {"log_interval": 7}])
def test_a_setting_of_a_finished_run_that_would_change_nothing_is_refused(tmp_path, given):
    run = trained(tmp_path, max_steps=2)
    with pytest.raises(SettingError, match="is finished: .* would change nothing"):
        resumed(run, **given)
    name = next(iter(given))
    assert resumed(run, **given, max_steps=3)[name] == given[name] and steps(run) == 3


def test_more_patience_continues_a_run_that_had_lost_it(tmp_path):
    """A rate that is far too high makes each evaluation worse than the first."""
    run = trained(tmp_path, max_steps=8, eval_interval=1, patience=1, learning_rate=10.0)
    ended_at = steps(run)
    assert ended_at < 8
    resumed(run, patience=100)
    assert steps(run) == 8


def test_the_limits_of_the_start_may_be_repeated(tmp_path):
    run = trained(tmp_path, 2, max_steps=6, budget=30.0)
    training = resumed(run, max_steps=6, budget=30.0)
    assert (training["budget"], steps(run)) == (30.0, 6)


@pytest.mark.parametrize(
    ("named", "flag"),
    [
        (NamedSources(val_data="other.txt"), "--val-data"),
        (NamedSources(format=TextFormat("cp949")), "--encoding"),
        (NamedSources(format=TextFormat(text_key="content")), "--text-key"),
        (NamedSources(format=TextFormat(max_bad_share=0.1)), "--skip-bad"),
        (NamedSources(start="elsewhere"), "--from"),
        (NamedSources(texts=("other.txt",)), "TEXT"),
    ],
)
@pytest.mark.parametrize("stop_after", [None, 1])
def test_other_sources_are_refused(tmp_path, named, flag, stop_after):
    run = trained(tmp_path, stop_after, max_steps=2)
    with pytest.raises(SettingError) as caught:
        resume(run, {}, training_context(tmp_path), named=named)
    assert flag in caught.value.fix


def test_texts_that_were_moved_may_be_named_where_they_are_now(tmp_path, story):
    names = ("a.txt", "v.txt", "moved.txt", "other.txt")
    text, held_out, moved, other = (tmp_path / name for name in names)
    text.write_text(story[2000:8000])
    held_out.write_text(story[:2000])
    sources = Sources((str(text),), str(held_out))
    start(sources, {**TINY, "max_steps": 2}, "run", training_context(tmp_path, 1))
    run = RunFolder(tmp_path / "run")
    text.rename(moved)
    other.write_text("Another text, which the run does not know. " * 9)
    with pytest.raises(TextError, match=r"no longer at .*a\.txt"):
        resume(run, {}, training_context(tmp_path))
    with pytest.raises(SettingError, match="other texts"):
        resume(run, {}, training_context(tmp_path), (str(other),), accept_changes=True)
    named = NamedSources((str(moved),))
    assert resume(run, {}, training_context(tmp_path), named=named).steps == 2
    info = run.read_info()
    assert info["texts"] == [str(moved)] and info["files"][0]["path"] == str(moved)
    assert resume(run, {"max_steps": 3}, training_context(tmp_path)).steps == 3


def test_the_value_auto_is_the_one_of_a_run_that_was_started_without_it(tmp_path):
    context, free = training_context(tmp_path, 1), {**TINY, "max_steps": 2}
    start(
        Sources((str(STORY),)), {k: v for k, v in free.items() if k != "precision"}, "run", context
    )
    run = RunFolder(tmp_path / "run")
    before = run.read_info()["training"]
    assert resumed(run, precision="auto", compile="auto") == before
    with pytest.raises(SettingError, match="precision"):
        resumed(trained(tmp_path / "other", max_steps=2), precision="auto")


def test_an_accepted_number_of_processes_is_that_of_the_run_from_then_on(tmp_path):
    run = trained(tmp_path, max_steps=2)
    run.write_info({**run.read_info(), "world_size": 2})
    with pytest.raises(CheckpointError, match="started with 2 processes, got 1"):
        resumed(run)
    resume(run, {"max_steps": 3}, training_context(tmp_path), accept_changes=True)
    assert run.read_info()["world_size"] == 1 and resumed(run, max_steps=4)["max_steps"] == 4


def test_the_sources_of_the_start_may_be_named_again(tmp_path, story):
    held_out = tmp_path / "held-out.txt"
    held_out.write_text(story[:2000])
    format = TextFormat(text_key="content")
    sources = Sources((str(STORY),), str(held_out), format)
    start(sources, {**TINY, "max_steps": 2}, "run", training_context(tmp_path, 1))
    named = NamedSources((str(STORY),), str(held_out), format)
    assert (
        resume(RunFolder(tmp_path / "run"), {}, training_context(tmp_path), named=named).steps == 2
    )
