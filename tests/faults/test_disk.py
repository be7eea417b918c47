"""Files are written in a durable order, and a failing disk loses nothing that was saved."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from faults.layer import ERRORS, Disk, Durability, Event, Fail
from faults.tiny import INTERVAL, STEPS, digest, go_on, train, training_context, write_text
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.run_log import read_log
from simplellm.checkpoint.step_folder import load_model
from simplellm.checkpoint.step_names import step_of
from simplellm.checkpoint.training_state import TrainingState
from simplellm.data.tokenizer import Tokenizer
from simplellm.errors import CheckpointError, TrainingError
from simplellm.model.transformer import SimpleLLM
from simplellm.storage.lock import FolderLock
from simplellm.storage.manifest import is_intact, verify_manifest

Parts = tuple[SimpleLLM, Tokenizer]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """A small model and its tokenizer."""
    folder = tmp_path_factory.mktemp("parts")
    write_text(folder)
    return load_model(Path(train(folder / "checkpoints", max_steps=1).path), torch.device("cpu"))


def save(run: RunFolder, step: int, parts: Parts, best: bool = True) -> Path:
    state = TrainingState({"step": step}, {"optimizer/x": torch.ones(3)})
    return run.save(step, *parts, state, {"val_loss": 9.0 - step}, best)


def temporaries(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".tmp-*")]


def assert_old_state_is_whole(run: RunFolder, old: Path) -> None:
    verify_manifest(old)
    for folder in run.step_folders():
        verify_manifest(folder)
    for which in ("best", "last"):
        pointer = run.pointer(which)
        assert pointer is not None
        verify_manifest(run.path / pointer["path"])
    assert temporaries(run.path) == []


# ---------------------------------------------------------------- order


def test_a_save_is_durable_in_order(checkpoints, parts):
    run, durability = RunFolder(checkpoints / "run"), Durability()
    with Disk(checkpoints, durability.take) as disk:
        run.write_info({})
        for step in range(1, 6):
            save(run, step, parts, best=step == 2)
    assert durability.finish() == []
    assert len([event for event in disk.events if event.kind == "fsync"]) > 50
    committed = [
        event.name
        for event in disk.events
        if event.kind in ("rename", "replace") and "step-000005" in event.target
    ]
    assert committed == ["rename run/step"]


def test_the_manifest_is_written_last(checkpoints, parts):
    with Disk(checkpoints) as disk:
        save(RunFolder(checkpoints / "run"), 1, parts)
    names = [event.name for event in disk.events]
    rename = names.index("rename run/step")
    assert [name for name in names[:rename] if name.startswith("write ")][
        -1
    ] == "write run/step/manifest.json"


def test_a_whole_training_is_durable_in_order(checkpoints):
    durability = Durability()
    with Disk(checkpoints, durability.take):
        train(checkpoints)
    assert durability.finish() == []


@pytest.mark.parametrize(
    "missing",
    ["run/step/model.safetensors", "run/step/manifest.json", "run/step", "run", "run/best.json"],
)
def test_a_missing_fsync_is_found(checkpoints, parts, missing):
    durability = Durability()

    def take(event: Event) -> None:
        if event.name != f"fsync {missing}":
            durability.take(event)

    with Disk(checkpoints, take):
        save(RunFolder(checkpoints / "run"), 1, parts)
    assert durability.finish() != []


# ---------------------------------------------------------------- one failure in one save


def events_of_a_save(folder: Path, parts: Parts) -> int:
    run = RunFolder(folder / "count")
    for step in (1, 2, 3):
        save(run, step, parts)
    with Disk(folder) as disk:
        save(run, 4, parts)
    return len(disk.events)


@pytest.mark.parametrize("n_errors", [1, pytest.param(len(ERRORS), marks=pytest.mark.slow)])
def test_any_failure_in_a_save_leaves_the_old_state_whole(
    checkpoints, parts, report_count, n_errors
):
    """Each event of a save fails with one error, or with each of them."""
    n_events, refused = events_of_a_save(checkpoints, parts), 0
    for at in range(n_events):
        for number in (ERRORS[(at + i) % len(ERRORS)] for i in range(n_errors)):
            run = RunFolder(checkpoints / f"run-{number}-{at}")
            for step in (1, 2, 3):
                old = save(run, step, parts)
            try:
                with Disk(checkpoints, Fail(at, number)):
                    save(run, 4, parts)
            except OSError as error:
                refused += error.errno == number
            assert_old_state_is_whole(run, old)
            assert save(run, 4, parts) == run.last() == run.best()
            shutil.rmtree(run.path)
    # A failure to delete an old checkpoint is ignored.
    assert refused > 0.8 * n_events * n_errors
    report_count(
        f"{n_events * n_errors} failing writes, fsyncs, renames and new folders of a save: "
        "0 lost, 0 files left behind"
    )


@pytest.mark.parametrize("at", [0, 5, 11, 17, 23])
def test_a_disk_that_stays_full_leaves_the_old_state_whole(checkpoints, parts, at):
    run = RunFolder(checkpoints / "run")
    old = save(run, 1, parts)
    with (
        Disk(checkpoints, Fail(at, errno.ENOSPC, times=10**9)),
        pytest.raises(OSError, match="No space"),
    ):
        save(run, 2, parts)
    assert_old_state_is_whole(run, old)


def test_files_that_could_not_be_deleted_are_removed_by_the_next_training(checkpoints, monkeypatch):
    train(checkpoints, max_steps=3)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(TrainingError):
        for name in ("unlink", "rmdir"):
            patch.setattr(os, name, refuse)
        with Disk(
            checkpoints,
            lambda event: refuse() if event.kind == "fsync" and "step" in event.path else None,
        ):
            go_on(checkpoints, max_steps=STEPS, eval_interval=INTERVAL)
    assert temporaries(checkpoints) and RunFolder(checkpoints / "run").last().name == "step-000003"
    go_on(checkpoints, max_steps=STEPS, eval_interval=INTERVAL)
    assert temporaries(checkpoints) == []


# ---------------------------------------------------------------- failures while training


class WhileTraining:
    """Calls `then` for the events after run.json is written."""

    def __init__(self, then: Callable[[Event], None]) -> None:
        self.then, self.has_begun = then, False

    def __call__(self, event: Event) -> None:
        if self.has_begun:
            self.then(event)
        self.has_begun = self.has_begun or event.name == "fsync run"


def n_events_of_training(checkpoints: Path) -> int:
    seen: list[Event] = []
    with Disk(checkpoints, WhileTraining(seen.append)):
        train(checkpoints, "run")
    shutil.rmtree(checkpoints)
    assert len(seen) > 100, "too few events to fail at"
    return len(seen)


def fail_one(checkpoints: Path, at: int, number: int, undisturbed: str) -> None:
    said: list[str] = []
    fail = Fail(at, number)
    with Disk(checkpoints, WhileTraining(fail)):
        result = train(checkpoints, "run", training_context(checkpoints, said.append))
    run = RunFolder(checkpoints / "run")
    assert (
        result.steps == STEPS and digest(run.last()) == undisturbed and Path(result.path).is_dir()
    )
    assert all("\n" not in line for line in said[1:])
    assert temporaries(checkpoints) == [] and not (run.path / ".lock").exists()
    assert result.path == str(run.best())
    shutil.rmtree(checkpoints)


def test_a_disk_failure_does_not_end_a_training(checkpoints, undisturbed, report_count):
    n_events = n_events_of_training(checkpoints)
    places = range(0, n_events, 24)
    assert len(places) > len(ERRORS)  # each error is tried at some event
    for at in places:
        fail_one(checkpoints, at, ERRORS[at % len(ERRORS)], undisturbed)
    report_count(
        f"{len(places)} failures of the disk while training: "
        f"{len(places)} trainings reached the same weights"
    )


@pytest.mark.slow
def test_a_disk_failure_at_any_event_does_not_end_a_training(
    checkpoints, undisturbed, report_count
):
    n_events = n_events_of_training(checkpoints)
    assert n_events > 100  # of several saves
    for number in ERRORS:
        for at in range(n_events):
            fail_one(checkpoints, at, number, undisturbed)
    count = n_events * len(ERRORS)
    report_count(
        f"{count} failures of the disk while training: {count} trainings reached the same weights"
    )


def failing_saves(n_failures: float) -> Callable[[Event], None]:
    """Makes `n_failures` saves fail, beginning with the second."""
    seen = 0

    def before(event: Event) -> None:
        nonlocal seen
        if event.name == "rename run/step":
            seen += 1
            if 1 < seen <= 1 + n_failures:
                raise OSError(errno.ENOSPC, "No space left on device")

    return before


@pytest.mark.parametrize("n_failures", [1, 2])
def test_failed_saves_are_reported_and_retried(checkpoints, undisturbed, n_failures):
    said: list[str] = []
    with Disk(checkpoints, failing_saves(n_failures)):
        result = train(checkpoints, "run", training_context(checkpoints, said.append))
    told = [line for line in said if "could not be saved" in line]
    assert told == [
        f"step {INTERVAL * (2 + i)} could not be saved: No space left on device; training goes on, "
        "the next evaluation tries again"
        for i in range(n_failures)
    ]
    assert digest(RunFolder(checkpoints / "run").last()) == undisturbed and result.path == str(
        RunFolder(checkpoints / "run").best()
    )


def test_the_third_failed_save_in_a_row_ends_the_training(checkpoints, undisturbed):
    with (
        Disk(checkpoints, failing_saves(10**9)),
        pytest.raises(TrainingError, match="No space left") as found,
    ):
        train(checkpoints, "run")
    run = RunFolder(checkpoints / "run")
    assert "as 2 before it" in str(found.value)
    assert (
        f"the last good checkpoint is {run.path / 'step-000003'}" in found.value.fix
        and "--resume" in found.value.fix
    )
    assert [folder.name for folder in run.step_folders()] == ["step-000003"] and temporaries(
        checkpoints
    ) == []
    go_on(checkpoints)
    assert digest(run.last()) == undisturbed


def test_the_last_save_is_retried(checkpoints, undisturbed):
    def last_two_fail(event: Event) -> None:
        nonlocal seen
        if event.name == "rename run/step":
            seen += 1
            if seen in (4, 5):
                raise OSError(errno.EIO, "Input/output error")

    seen = 0
    with Disk(checkpoints, last_two_fail):
        assert train(checkpoints).steps == STEPS
    assert seen == 6 and digest(RunFolder(checkpoints / "run").last()) == undisturbed


def test_the_log_marks_failed_saves(checkpoints):
    with Disk(checkpoints, failing_saves(10**9)), pytest.raises(TrainingError):
        train(checkpoints)
    run = RunFolder(checkpoints / "run")
    evaluations = [record for record in read_log(run.log_path) if record["kind"] == "evaluation"]
    assert [(record["step"], record["saved"]) for record in evaluations] == [
        (3, True),
        (6, False),
        (9, False),
    ]
    assert run.pointer("best")["step"] == run.pointer("last")["step"] == 3


def test_a_failed_log_write_is_reported_once_and_training_continues(checkpoints, undisturbed):
    def fail(event: Event) -> None:
        if event.name == "write run/log.jsonl" and len(disk.events) > 3:
            counted.append(event)
            if 2 <= len(counted) <= 6:
                raise OSError(errno.ENOSPC, "No space left on device")

    said: list[str] = []
    counted: list[Event] = []
    with Disk(checkpoints, fail) as disk:
        train(checkpoints, "run", training_context(checkpoints, said.append))
    run = RunFolder(checkpoints / "run")
    assert (
        len([line for line in said if "log.jsonl" in line]) == 1
        and digest(run.last()) == undisturbed
    )
    steps = [record["step"] for record in read_log(run.log_path) if record["kind"] == "step"]
    assert steps[0] == 1 and steps[-1] == STEPS and len(steps) >= STEPS - 5


# ---------------------------------------------------------------- a deleted run folder


def delete_run(checkpoints: Path, at_step: int) -> Callable[[], bool]:
    """A `should_stop` that deletes the folder of the run before step `at_step`."""
    asked = iter(range(10**9))

    def should_stop() -> bool:
        if next(asked) == at_step:
            shutil.rmtree(checkpoints / "run")
        return False

    return should_stop


@pytest.mark.parametrize("at_step", [1, 3, 7, 11])
def test_a_deleted_run_folder_is_created_again(checkpoints, undisturbed, at_step):
    said: list[str] = []
    result = train(
        checkpoints,
        "run",
        training_context(checkpoints, said.append, delete_run(checkpoints, at_step)),
    )
    run = RunFolder(checkpoints / "run")
    assert any("was removed" in line for line in said) and digest(run.last()) == undisturbed
    assert run.read_info()["training"]["max_steps"] == STEPS and result.path == str(run.best())
    assert go_on(checkpoints).steps == STEPS


def test_a_run_folder_created_again_is_locked_again(checkpoints):
    refusals: list[str] = []
    vanish = delete_run(checkpoints, 4)

    def should_stop() -> bool:
        if (checkpoints / "run" / "step-000006").is_dir():
            with pytest.raises(CheckpointError) as found:
                FolderLock(checkpoints / "run").acquire()
            refusals.append(str(found.value))
        return vanish()

    train(checkpoints, "run", training_context(checkpoints, should_stop=should_stop))
    assert refusals and all(f"process {os.getpid()}" in refusal for refusal in refusals)


def test_a_run_folder_taken_by_another_training_ends_the_first(checkpoints):
    vanish, locks = delete_run(checkpoints, 4), []

    def should_stop() -> bool:
        vanish()
        if not (checkpoints / "run").exists():
            locks.append(FolderLock(checkpoints / "run"))
            locks[0].acquire()
        return False

    with pytest.raises(TrainingError, match="is being trained by process"):
        train(checkpoints, "run", training_context(checkpoints, should_stop=should_stop))
    assert [path.name for path in (checkpoints / "run").iterdir()] in (
        [".lock"],
        [".lock", "log.jsonl"],
        ["log.jsonl", ".lock"],
    )
    locks[0].release()


# ---------------------------------------------------------------- retention


def test_retention_keeps_the_best_and_the_last_whole_checkpoints(checkpoints, parts, report_count):
    """A fifth of the checkpoints is damaged; neither a save nor a prune deletes a needed one."""
    generator = torch.Generator().manual_seed(0)
    run, other = RunFolder(checkpoints / "run"), RunFolder(checkpoints / "other")
    kept, losses = save(other, 1, parts), {}
    for step in range(1, 41):
        losses[step] = float(torch.rand((), generator=generator))
        state = TrainingState({"step": step}, {"optimizer/x": torch.ones(3)})
        saved = run.save(
            step, *parts, state, {"val_loss": losses[step]}, losses[step] == min(losses.values())
        )
        assert is_intact(saved) and is_intact(kept)
        best = run.path / run.pointer("best")["path"]
        assert best.is_dir() and step_of(best) == min(losses, key=losses.__getitem__)
        if torch.rand((), generator=generator) < 0.2:
            (saved / "config.json").write_text("{}")
        whole = [folder for folder in run.step_folders() if is_intact(folder)]
        goes = run.superfluous()
        assert not goes.keys() & {*whole[:2]} and (best not in goes or not is_intact(best))
        assert all(folder.parent == run.path for folder in goes)
    for folder in run.step_folders():
        (folder / "config.json").write_text("{}")
    assert run.superfluous() == {}, "nothing is deleted where nothing is whole"
    report_count(
        "40 saves, a fifth of them damaged: retention kept the best and the last whole ones, "
        "and all of another run"
    )
