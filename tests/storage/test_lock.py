"""Folder locks: one writer per folder, and the lock of a dead process is free."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import posix_only

from simplellm.errors import CheckpointError
from simplellm.storage import lock
from simplellm.storage.lock import LOCK_NAME, FolderLock, lock_holder

HOLD = """
import sys
from pathlib import Path
from simplellm.storage.lock import FolderLock
FolderLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.read()
"""
RACE = """
import sys
from pathlib import Path
from simplellm.errors import CheckpointError
from simplellm.storage.lock import FolderLock
folder = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
try:
    FolderLock(folder).acquire()
    print("won", flush=True)
except CheckpointError:
    print("lost", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def run_in() -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts a script with a folder as its argument; kills it after the test."""
    started: list[subprocess.Popen] = []

    def run_in(folder: Path, script: str = HOLD) -> subprocess.Popen:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        started.append(
            subprocess.Popen([sys.executable, "-c", script, str(folder)], text=True, **pipes)
        )
        started[-1].stdout.readline()
        return started[-1]

    yield run_in
    for process in started:
        process.kill()
        process.communicate()


def test_the_error_names_the_holder_and_its_start(tmp_path, run_in):
    first = run_in(tmp_path)
    with pytest.raises(
        CheckpointError, match=rf"process {first.pid} on \S+ since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d"
    ) as found:
        FolderLock(tmp_path).acquire()
    assert str(tmp_path) in str(found.value) and "--name" in found.value.fix
    assert f"process {first.pid}" in lock_holder(tmp_path)


@posix_only
@pytest.mark.parametrize("number", [getattr(signal, "SIGKILL", signal.SIGTERM), signal.SIGTERM])
def test_the_lock_of_a_killed_process_is_free(tmp_path, run_in, number):
    first = run_in(tmp_path)
    first.send_signal(number)
    first.wait()
    assert (tmp_path / LOCK_NAME).exists() and lock_holder(tmp_path) == ""
    with FolderLock(tmp_path):
        assert f"process {os.getpid()} " in lock_holder(tmp_path)


def test_one_of_many_processes_gets_the_lock(tmp_path, run_in):
    processes = [run_in(tmp_path, RACE) for _ in range(8)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.stdout.readline().strip() for process in processes]
    assert sorted(answers) == ["lost"] * 7 + ["won"]


def test_a_released_lock_leaves_no_files(tmp_path):
    with FolderLock(tmp_path / "a" / "b"):
        assert json.loads((tmp_path / "a" / "b" / LOCK_NAME).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_files_is_not_deleted(tmp_path):
    with FolderLock(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "run.json").write_text("{}")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["run.json"]


def test_a_released_lock_can_be_taken_again(tmp_path):
    held = FolderLock(tmp_path)
    for _ in range(3):
        held.acquire()
        with pytest.raises(CheckpointError):
            FolderLock(tmp_path).acquire()
        held.release()


@posix_only
def test_the_exit_of_a_child_process_keeps_the_lock(tmp_path):
    with FolderLock(tmp_path):
        child = os.fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)
        assert lock_holder(tmp_path)


def test_a_lock_file_without_a_valid_holder_is_locked(tmp_path, run_in):
    run_in(tmp_path)
    for content in ("", "{", "[]", '{"pid": "x"}', "\x00" * 100):
        (tmp_path / LOCK_NAME).write_text(content)
        assert lock_holder(tmp_path) == "another process"


@posix_only
def test_a_deleted_lock_is_taken_again(tmp_path):
    folder = tmp_path / "run"
    with FolderLock(folder) as held:
        held.keep()
        (folder / LOCK_NAME).unlink()
        folder.rmdir()
        assert lock_holder(folder) == ""
        held.keep()
        assert f"process {os.getpid()}" in lock_holder(folder)


@posix_only
def test_a_lock_that_another_process_took_is_refused(tmp_path, run_in):
    with FolderLock(tmp_path) as held:
        (tmp_path / LOCK_NAME).unlink()
        other = run_in(tmp_path)
        with pytest.raises(CheckpointError, match=f"process {other.pid}"):
            held.keep()
    assert lock_holder(tmp_path), "the lock of the other process stays"


@posix_only
def test_a_lock_file_deleted_between_opening_and_locking_is_not_used(tmp_path, monkeypatch):
    """A lock on a file without a name would not exclude other processes."""
    deleted: list[int] = []

    def replaced(handle: int) -> bool:
        if not deleted:
            (tmp_path / LOCK_NAME).unlink()
            deleted.append(handle)
        return try_lock(handle)

    try_lock = lock.try_lock
    monkeypatch.setattr(lock, "try_lock", replaced)
    with FolderLock(tmp_path):
        monkeypatch.undo()
        assert deleted and lock_holder(tmp_path)


@posix_only
def test_a_file_system_without_locks_is_accepted(tmp_path, monkeypatch):
    import errno
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with FolderLock(tmp_path):
        assert (tmp_path / ".lock").exists()
    assert not (tmp_path / ".lock").exists()
