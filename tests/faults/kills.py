"""Kills trainings and checks what is left.

Run it in tests/ with `python -m faults.kills --random 200 --each 10`.

Each training is a fork of this process, so that torch is imported once. A killed run must hold only
whole checkpoints, lose at most one save interval, and reach, when resumed, the weights of a run
without faults.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from faults.layer import Disk, Event
from faults.tiny import INTERVAL, STEPS, TINY, digest, go_on, train, write_text
from simplellm.app.cli import main as command
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.run_log import read_log
from simplellm.data.prepared_corpus import PREPARED_FOLDER
from simplellm.errors import CheckpointError, StoppedEarly
from simplellm.storage.lock import lock_holder
from simplellm.storage.manifest import is_intact
from simplellm.training import preparation

CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}
SIGNALS = {getattr(signal, name): code for name, code in CODES.items() if hasattr(signal, name)}
MAX_SECONDS = 10.0  # from a signal to the end of the process
KILLED_AGAIN = 0.3  # share of the resumed runs that are killed as well


@dataclass
class Harness:
    """A folder to train in, and the violations found there."""

    folder: Path
    generator: random.Random
    seconds: float = 0.0  # of a whole training
    reference: str = ""
    kills: int = 0
    violations: list[str] = field(default_factory=list)

    def measure(self) -> None:
        """Train without faults, to know the duration and the resulting weights."""
        assert wait(fork(lambda: train(self.folder / "reference"))) == 0
        self.prepare(self.folder / "warm-up")
        train(self.folder / "warm-up")  # in this process: forks inherit its imports
        started_at = time.perf_counter()
        self.prepare(self.folder / "timed")
        assert wait(fork(lambda: train(self.folder / "timed"))) == 0
        self.seconds = time.perf_counter() - started_at
        self.reference = digest(RunFolder(self.folder / "reference" / "run").last())

    def prepare(self, checkpoints: Path) -> None:
        """Copy the prepared ids: training a tokenizer needs threads, which a fork does not have."""
        shutil.copytree(
            self.folder / "reference" / PREPARED_FOLDER,
            checkpoints / PREPARED_FOLDER,
        )

    @contextlib.contextmanager
    def trial(self, name: str, is_prepared: bool = True) -> Iterator[Path]:
        """A folder without runs; a failed assertion is recorded under `name`."""
        checkpoints = self.folder / "trial"
        if is_prepared:
            self.prepare(checkpoints)
        try:
            yield checkpoints
        except AssertionError as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.violations.append(f"{name}: {error or where.line}")
        shutil.rmtree(checkpoints, ignore_errors=True)

    def kill_at_random(self, number: int) -> None:
        with self.trial(f"random kill {number}", is_prepared=number % 5 != 0) as checkpoints:
            child = fork(lambda: train(checkpoints))
            self.kill_within(child, 1.1 * self.seconds)
            self.check_after_kill(checkpoints)
            while self.generator.random() < KILLED_AGAIN:
                self.kill_within(fork(lambda: continue_or_start(checkpoints)), self.seconds)
                self.check_after_kill(checkpoints)
            self.finish(checkpoints)

    def kill_at(self, point: str, occurrence: int) -> None:
        with self.trial(f"{point}, time {occurrence}") as checkpoints:
            assert (
                wait(fork(lambda: train_until(checkpoints, point, occurrence))) == -signal.SIGKILL
            )
            self.kills += 1
            self.check_after_kill(checkpoints)
            self.finish(checkpoints)

    def signal_at_random(self, number: int) -> None:
        which = self.generator.choice(list(SIGNALS))
        with self.trial(f"{which.name} {number}") as checkpoints:
            child = fork(lambda: train_by_command(checkpoints))
            time.sleep(self.generator.random() * 1.1 * self.seconds)
            sent_at = time.perf_counter()
            os.kill(child, which)
            code, seconds = wait(child), time.perf_counter() - sent_at
            assert seconds < MAX_SECONDS, f"took {seconds:.1f} s"
            output = (checkpoints.parent / "output").read_text()
            assert "Traceback" not in output, output
            is_done = RunFolder(checkpoints / "run").path.joinpath(f"step-{STEPS:06d}").is_dir()
            assert code == SIGNALS[which] or (code == 0 and is_done), f"exit code {code}: {output}"
            self.kills += 1
            if f"--resume --name {'run'}" in output:
                self.check_stop(checkpoints, output)
            self.check_after_kill(checkpoints)
            self.finish(checkpoints)

    def kill_within(self, child: int, seconds: float) -> None:
        time.sleep(self.generator.random() * seconds)
        os.kill(child, signal.SIGKILL)
        assert wait(child) in (0, -signal.SIGKILL)
        self.kills += 1

    def check_after_kill(self, checkpoints: Path) -> None:
        """A kill leaves whole and recent checkpoints, valid pointers and a free lock."""
        run = RunFolder(checkpoints / "run")
        for folder in run.step_folders():
            assert is_intact(folder), f"{folder.name} is damaged"
        for which in ("best", "last"):
            pointer = run.pointer(which)
            assert (pointer is None) == (not run.step_folders()), f"{which}.json"
            assert pointer is None or (run.path / pointer["path"]).is_dir(), (
                f"{which}.json points nowhere"
            )
        reached = max((record["step"] for record in read_log(run.log_path)), default=0)
        saved = max((int(folder.name[5:]) for folder in run.step_folders()), default=0)
        assert reached - saved <= INTERVAL, f"{reached - saved} steps lost"
        assert not lock_holder(run.path), "a dead process holds the lock"

    def check_stop(self, checkpoints: Path, output: str) -> None:
        run = RunFolder(checkpoints / "run")
        last = run.last()
        stopped_after = int(output.split("stopped after step ")[1].split()[0])
        assert int(last.name[5:]) == stopped_after, (
            f"stopped after {stopped_after}, saved {last.name}"
        )
        assert max(record["step"] for record in read_log(run.log_path)) == stopped_after
        assert not list(checkpoints.rglob(".tmp-*")) and not (run.path / ".lock").exists()

    def finish(self, checkpoints: Path) -> None:
        """The resumed run reaches the reference weights and leaves no temporary files."""
        assert wait(fork(lambda: continue_or_start(checkpoints))) == 0, "it cannot be resumed"
        run = RunFolder(checkpoints / "run")
        assert run.last().name == f"step-{STEPS:06d}" and digest(run.last()) == self.reference, (
            "other weights"
        )
        steps = [record["step"] for record in read_log(run.log_path) if record["kind"] == "step"]
        assert steps == list(range(1, STEPS + 1)), f"logged {steps}"
        assert not list(checkpoints.rglob(".tmp-*")), "temporary files are left"


def fork(job: Callable[[], object]) -> int:
    """Run a job in a forked process; its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        result = job()
        code = result if isinstance(result, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait(child: int) -> int:
    """The exit code, or minus the number of the signal that ended the process."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def continue_or_start(checkpoints: Path) -> None:
    """What a user does: resume, or start again where nothing was saved."""
    try:
        go_on(checkpoints)
    except (CheckpointError, StoppedEarly):
        assert not RunFolder(checkpoints / "run").step_folders()
        train(checkpoints)


def train_until(checkpoints: Path, point: str, occurrence: int) -> None:
    left = occurrence

    def before(event: Event) -> None:
        nonlocal left
        if event.name == point:
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    with Disk(checkpoints, before):
        train(checkpoints)


def train_by_command(checkpoints: Path) -> int:
    """`simplellm train` with its output in a file."""
    output = open(checkpoints.parent / "output", "w", buffering=1)  # noqa: SIM115
    sys.stderr = sys.stdout = output
    flags = {**TINY, "max_steps": STEPS, "eval_interval": INTERVAL}
    flags = {name: value for name, value in flags.items() if value is not None}
    words = [
        word
        for name, value in flags.items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    text = str(checkpoints.parent / "text.txt")
    return command(
        [
            "train",
            text,
            "--name",
            "run",
            "--checkpoints",
            str(checkpoints),
            "--device",
            "cpu",
            *words,
        ]
    )


def points(folder: Path) -> dict[str, int]:
    """The names of all disk events of a training, and how often each occurs."""
    log = folder / "points"

    def count() -> None:
        with Disk(folder / "counted") as disk:
            train(folder / "counted")
        log.write_text(
            "\n".join(event.name for event in disk.events if event.path.startswith("run"))
        )

    assert wait(fork(count)) == 0
    names = log.read_text().splitlines()
    return {name: names.count(name) for name in dict.fromkeys(names)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--random", type=int, default=0, help="kills at random times")
    parser.add_argument("--each", type=int, default=0, help="kills at each point of a save")
    parser.add_argument(
        "--signals", type=int, default=0, help="SIGINT, SIGTERM and SIGHUP at random times"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    preparation.relative_speed = lambda device: 1.0
    with tempfile.TemporaryDirectory() as folder:
        write_text(Path(folder))
        return run_all(Harness(Path(folder), random.Random(options.seed)), options)


def run_all(harness: Harness, options: argparse.Namespace) -> int:
    harness.measure()
    for number in range(options.random):
        harness.kill_at_random(number)
    if options.random:
        print_result(harness, f"{harness.kills} kills at random times")
    if options.each:
        found = points(harness.folder)
        harness.kills = 0
        for point, times in found.items():
            for number in range(options.each):
                harness.kill_at(point, 1 + number % times)
        print_result(harness, f"{harness.kills} kills at {len(found)} points of a save")
    harness.kills = 0
    for number in range(options.signals):
        harness.signal_at_random(number)
    if options.signals:
        print_result(harness, f"{harness.kills} signals at random times")
    return 1 if harness.violations else 0


def print_result(harness: Harness, what: str) -> None:
    print(f"{what}: {len(harness.violations)} lost", flush=True)  # noqa: T201
    for violation in harness.violations:
        print(f"  {violation}", flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
