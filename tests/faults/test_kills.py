"""Promises 1, 9 and 10: kills and signals at any time, and two at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from conftest import TINY_FLAGS

from faults.kills import SIGNALS
from faults.own_process import run_module
from faults.tiny import digest, go_on, train, training_context, write_text
from simplellm.app.cli import main
from simplellm.app.interrupt import Interrupt
from simplellm.checkpoint.run import RunFolder
from simplellm.errors import CheckpointError
from simplellm.storage.lock import FolderLock
from simplellm.training.trainer import Trainer

TESTS = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [("--random", "200"), ("--each", "10"), ("--signals", "60")],
    ids=["200 kills at random times", "10 kills at each point of a save", "60 signals"],
)
def test_kills_and_signals_lose_nothing(report_count, options):
    (line,) = run_module("kills", *options)
    report_count(line)
    assert line.endswith(": 0 lost")


# ---------------------------------------------------------------- signals


def send_soon(*numbers: int, seconds: float = 0.05) -> None:
    """Send signals to this process from a thread, `seconds` apart."""

    def send() -> None:
        for number in numbers:
            time.sleep(seconds)
            os.kill(os.getpid(), number)

    threading.Thread(target=send, daemon=True).start()


def test_a_second_ctrl_c_ends_a_long_step_at_once(checkpoints, monkeypatch):
    def long_step(trainer: Trainer) -> None:
        send_soon(signal.SIGINT, signal.SIGINT)
        for _ in range(1000):
            time.sleep(0.01)

    def should_stop() -> bool:
        monkeypatch.setattr(Trainer, "train_step", long_step)
        return interrupt.is_set()

    with Interrupt() as interrupt, pytest.raises(KeyboardInterrupt):
        train(checkpoints, context=training_context(checkpoints, should_stop=should_stop))
    assert not (checkpoints / "run" / ".lock").exists() and not list(checkpoints.rglob(".tmp-*"))


@pytest.mark.parametrize("number, code", SIGNALS.items())
def test_the_first_signal_decides_the_exit_code(number, code):
    with Interrupt() as interrupt:
        assert not interrupt.is_set() and interrupt.exit_code == 0
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.is_set() and interrupt.exit_code == code


@pytest.mark.parametrize(
    "number, error", [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_before_the_first_step_ends_the_program(number, error):
    with Interrupt(), pytest.raises(error):
        os.kill(os.getpid(), number)


def test_a_jumping_clock_changes_nothing(checkpoints, undisturbed, monkeypatch):
    jumps, clock = iter(range(10**9)), time.time
    monkeypatch.setattr(time, "time", lambda: clock() + (-1) ** next(jumps) * 1e8)
    asked = iter(range(10**9))
    train(checkpoints, context=training_context(checkpoints, should_stop=lambda: next(asked) == 5))
    go_on(checkpoints)
    assert digest(RunFolder(checkpoints / "run").last()) == undisturbed


# ---------------------------------------------------------------- two trainings of one run


@pytest.fixture
def other(checkpoints: Path):
    """Holds the lock of `run`, which has one checkpoint; the name of the process in errors."""
    train(checkpoints, max_steps=1)
    with FolderLock(checkpoints / "run"):
        yield f"process {os.getpid()}"


def test_a_second_training_of_a_run_is_refused_and_changes_nothing(checkpoints, other):
    before = {path: path.read_bytes() for path in checkpoints.rglob("*") if path.is_file()}
    for attempt in (lambda: go_on(checkpoints), lambda: train(checkpoints, "run")):
        started_at = time.perf_counter()
        with pytest.raises(CheckpointError, match=other):
            attempt()
        assert time.perf_counter() - started_at < 5
    assert {path: path.read_bytes() for path in checkpoints.rglob("*") if path.is_file()} == before


def test_a_second_training_command_exits_with_1(checkpoints, other, capsys):
    capsys.readouterr()
    words = [
        "train",
        "--resume",
        "--name",
        "run",
        "--checkpoints",
        str(checkpoints),
        "--device",
        "cpu",
    ]
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 2) and err.startswith("error: ") and other in err


@pytest.mark.parametrize(
    "command",
    [["generate", "--prompt", "The"], ["verify"], ["runs"], ["evaluate", "--data", "TEXT"]],
)
def test_readers_need_no_lock(checkpoints, other, command, capsys):
    words = [str(checkpoints.parent / "text.txt") if word == "TEXT" else word for word in command]
    assert main([*words, "--checkpoints", str(checkpoints), "--device", "cpu"]) == 0
    assert other not in capsys.readouterr().err


def test_the_name_of_a_run_in_preparation_is_not_taken(checkpoints):
    with FolderLock(checkpoints / "text"):
        text = str(checkpoints.parent / "text.txt")
        where = ["--checkpoints", str(checkpoints)]
        result = main(["train", text, *where, "--max-steps", "1", *TINY_FLAGS])
        assert result == 0 and (checkpoints / "text-2" / "run.json").is_file()
        assert [path.name for path in (checkpoints / "text").iterdir()] == [".lock"]


def test_a_run_killed_before_its_first_checkpoint_can_be_started_again(checkpoints, undisturbed):
    folder = checkpoints / "run"
    (folder / ".tmp-step-000003-01234567").mkdir(parents=True)
    for name in ("run.json", ".lock", "log.jsonl"):
        (folder / name).write_text('{"step": 2, "kind": "step"}\n' if name == "log.jsonl" else "{")
    with pytest.raises(CheckpointError):
        go_on(checkpoints)
    assert digest(Path(train(checkpoints).path)) and digest(RunFolder(folder).last()) == undisturbed
    assert not list(checkpoints.rglob(".tmp-*"))


def test_files_of_a_live_process_are_not_leftovers(checkpoints):
    from simplellm.storage.files import new_folder, remove_leftovers

    write_text(checkpoints.parent)
    dead = checkpoints / ".tmp-dead-01234567"
    dead.mkdir(parents=True)
    with new_folder(checkpoints / "step") as temporary:
        (temporary / "a").write_text("whole")
        remove_leftovers(checkpoints)
        assert temporary.is_dir() and not dead.exists()
    assert (checkpoints / "step" / "a").read_text() == "whole"
