"""OpenMP threads spin on a quiet machine, sleep on a busy one, and do as the user says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from simplellm.training import threads
from simplellm.training.threads import LoadMeter, adapted_to_load, busy_seconds, set_defaults

STAT = """cpu  900 0 0 9000 0 0 0 0 0 0
cpu0 100 10 20 4000 5 3 2 40 0 0
cpu1 200 0 0 4000 0 0 0 0 0 0
cpu2 600 0 0 1000 0 0 0 0 0 0
intr 5389557 0
"""
SWITCHES = """
import json, resource, torch
from simplellm.training.threads import spinning_throttled
x = torch.zeros(1 << 18)
def sleeps():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
    for _ in range(300):
        x.add_(1.0)
        sum(range(3000))  # the other threads wait for longer than the short spin, and not as long as the long one
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before
sleeps()
counts = [sleeps()]
with spinning_throttled():
    sleeps()
    counts.append(sleeps())
sleeps()
counts.append(sleeps())
print(json.dumps(counts))
"""


@pytest.fixture
def stat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "stat"
    path.write_text(STAT)
    monkeypatch.setattr(threads, "PROCESSOR_TIMES", path)
    monkeypatch.setattr(os, "sysconf", lambda name: 100, raising=False)
    return path


def test_idle_and_waiting_time_is_not_busy_and_stolen_time_is(stat: Path) -> None:
    assert busy_seconds({0}) == 1.75 and busy_seconds({1, 2}) == 8.0 and busy_seconds(set()) == 0


@pytest.mark.parametrize(
    "content", [None, "cpu0 1 2\n", "cpuX 1 2 3 4 5 6 7 8\n", "cpu0 a b c d e f g h\n"]
)
def test_where_the_system_does_not_tell_nothing_is_known(
    stat: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    stat.unlink()
    if content is not None:
        stat.write_text(content)
    assert busy_seconds({0}) is None
    environment: dict[str, str] = {}
    set_defaults(environment)
    assert environment["GOMP_SPINCOUNT"] == threads.SHORT_SPIN
    for choice in threads.USER_CHOICES:
        monkeypatch.delenv(choice, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    before = threading.active_count()
    with adapted_to_load():
        assert threading.active_count() == before


def test_where_it_is_not_known_which_processors_are_ours_nothing_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert busy_seconds() is None


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OPENBLAS_NUM_THREADS"])
def test_what_a_user_set_stays(name: str) -> None:
    environment = {name: "7"}
    set_defaults(environment)
    assert environment[name] == "7" and "OPENBLAS_NUM_THREADS" in environment


def test_a_wait_policy_of_the_user_is_all_there_is() -> None:
    environment = {"OMP_WAIT_POLICY": "active"}
    set_defaults(environment)
    assert environment == {"OMP_WAIT_POLICY": "active", "OPENBLAS_NUM_THREADS": "1"}


def meter(*looks: tuple[float, float]) -> list[bool]:
    """What a meter says at looks a second apart, of the cores in use and those that this process uses."""
    busy = own = 0.0
    one = LoadMeter(0.0, 0.0, 0.0)
    said = []
    for now, (all_cores, own_cores) in enumerate(looks, 1):
        busy, own = busy + all_cores, own + own_cores
        said.append(one.look(busy, own, float(now)))
    return said


def test_others_make_a_machine_busy_and_this_process_does_not() -> None:
    assert meter((2.0, 2.0), (2.0, 1.95), (0.1, 0.0)) == [False] * 3
    assert meter((2.0, 1.0), (1.4, 1.0), (2.0, 1.6)) == [True] * 3


def test_threads_spin_again_only_when_it_stays_quiet() -> None:
    assert meter((2, 1), (2, 2), (2, 1), (2, 2), (2, 2), (2, 2)) == [
        True,
        True,
        True,
        True,
        False,
        False,
    ]
    assert meter((2, 1), (2, 1.8), (2, 1.8)) == [True] * 3, "a little is neither busy nor quiet"


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 2)), max_size=20))
def test_what_is_busy_beside_this_process_is_found_at_once(
    looks: list[tuple[float, float]],
) -> None:
    said = meter(*looks)
    assert all(
        is_busy
        for is_busy, (cores, own) in zip(said, looks, strict=True)
        if cores - own > threads.BUSY_CORES + 1e-6
    )


@pytest.mark.parametrize("name", threads.USER_CHOICES)
def test_where_the_user_chose_nobody_watches(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for choice in threads.USER_CHOICES:
        monkeypatch.delenv(choice, raising=False)
    monkeypatch.setenv(name, "1")
    before = threading.active_count()
    with adapted_to_load():
        assert threading.active_count() == before


@pytest.mark.skipif(busy_seconds() is None, reason="this system does not tell how busy it is")
def test_a_watcher_ends_with_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    for choice in threads.USER_CHOICES:
        monkeypatch.delenv(choice, raising=False)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), adapted_to_load():
        assert threading.active_count() == before + 1
        raise KeyboardInterrupt
    assert threading.active_count() == before


@pytest.mark.skipif(
    sys.platform != "linux" or (os.cpu_count() or 1) < 2, reason="needs libgomp and two cores"
)
def test_a_second_team_makes_threads_sleep_and_its_end_lets_them_spin_again() -> None:
    """The low spin count of libgomp: threads that wait for a moment give the processor away."""
    unset = (*threads.USER_CHOICES, "OMP_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"PYTHONPATH": str(ROOT), "GOMP_SPINCOUNT": "30000000"}
    out = subprocess.run(
        [sys.executable, "-c", SWITCHES],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    spinning, sleeping, again = json.loads(out)
    assert sleeping > 200 and spinning < sleeping / 4 and again < sleeping / 4
