"""OpenMP threads spin on a quiet machine and sleep on a busy one; a user's choice is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import pytest
import torch
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from simplellm.config.processor_time import busy_seconds
from simplellm.training import threads
from simplellm.training.threads import LoadMeter, adapted_to_load

SWITCHES = """
import json, resource, torch
from simplellm.training.threads import spinning_throttled
x = torch.zeros(1 << 18)
def sleeps():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
    for _ in range(100):
        x.add_(1.0)
        sum(range(3000))  # longer than the short spin, shorter than the long one
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


def test_threads_are_not_adapted_where_the_load_is_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "busy_seconds", lambda: None)
    for choice in threads.USER_CHOICES:
        monkeypatch.delenv(choice, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    before = threading.active_count()
    with adapted_to_load():
        assert threading.active_count() == before


def measure(*checks: tuple[float, float]) -> list[bool]:
    """What a meter returns at checks a second apart: (cores in use, cores this process uses)."""
    busy = own = 0.0
    meter = LoadMeter(0.0, 0.0, 0.0)
    results = []
    for now, (all_cores, own_cores) in enumerate(checks, 1):
        busy += all_cores
        own += own_cores
        results.append(meter.update(busy, own, float(now)))
    return results


def test_other_programs_make_the_machine_busy_and_this_process_does_not() -> None:
    assert measure((2.0, 2.0), (2.0, 1.95), (0.1, 0.0)) == [False] * 3
    assert measure((2.0, 1.0), (1.4, 1.0), (2.0, 1.6)) == [True] * 3


def test_threads_spin_again_only_after_two_quiet_checks() -> None:
    busy, quiet = (2, 1), (2, 2)
    expected = [True, True, True, True, False, False]
    assert measure(busy, quiet, busy, quiet, quiet, quiet) == expected


def test_a_load_between_the_two_limits_changes_nothing() -> None:
    assert measure((2, 1), (2, 1.8), (2, 1.8)) == [True] * 3


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 2)), max_size=20))
def test_the_load_of_other_programs_is_found_at_the_next_check(
    checks: list[tuple[float, float]],
) -> None:
    assert all(
        is_busy
        for is_busy, (cores, own) in zip(measure(*checks), checks, strict=True)
        if cores - own > threads.BUSY_CORES + 1e-6
    )


@pytest.mark.parametrize("name", threads.USER_CHOICES)
def test_threads_are_not_adapted_where_the_user_set_how_they_wait(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for choice in threads.USER_CHOICES:
        monkeypatch.delenv(choice, raising=False)
    monkeypatch.setenv(name, "1")
    before = threading.active_count()
    with adapted_to_load():
        assert threading.active_count() == before


@pytest.mark.skipif(busy_seconds() is None, reason="needs the processor times of /proc/stat")
def test_the_adapting_thread_ends_with_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    for choice in threads.USER_CHOICES:
        monkeypatch.delenv(choice, raising=False)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), adapted_to_load():
        assert threading.active_count() == before + 1
        raise KeyboardInterrupt
    assert threading.active_count() == before


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or (os.cpu_count() or 1) < 2, reason="needs libgomp and two cores"
)
def test_threads_sleep_while_a_second_team_exists_and_spin_again_afterwards() -> None:
    """With the low spin count of libgomp, threads that wait give up the processor."""
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
    assert sleeping > 60 and spinning < sleeping / 4 and again < sleeping / 4
