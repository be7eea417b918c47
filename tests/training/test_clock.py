"""The clock of a run: current step times, and suspensions that do not count."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from simplellm.training.clock import Clock, Heartbeat


def test_a_clock_measures_the_current_duration_of_a_step(monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = Clock(before=7.0)

    def steps(n: int, seconds: float) -> None:
        for _ in range(n):
            with clock.timed_step():
                now[0] += seconds

    steps(1, 60.0)  # the first one compiles
    assert clock.step_seconds(10.0) is None and clock.seconds == 67.0
    steps(100, 0.1)
    assert clock.step_seconds(10.0) == pytest.approx(0.1)
    steps(1, 20.0)  # suspended
    assert clock.step_seconds(10.0) == pytest.approx(0.1, rel=0.06)
    steps(100, 0.3)
    assert clock.step_seconds(10.0) == pytest.approx(0.3) and clock.slowdown(3.0) == pytest.approx(
        3.0
    )
    clock.begin(5)
    assert clock.step_seconds(10.0) is None


def test_a_clock_leaves_out_suspensions_from_the_call_on(monkeypatch) -> None:
    now, suspended = [0.0], [5.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = Clock(before=1.0)
    clock.leave_out(lambda: suspended[0])
    now[0] = 10.0
    assert clock.seconds == 11.0
    suspended[0], now[0] = 25.0, 30.0
    assert clock.seconds == 11.0


def beats(monkeypatch: pytest.MonkeyPatch, *gaps: tuple[float, float]) -> float:
    """Measured suspension after beats with gaps of (seconds, processor seconds)."""
    now, used = [100.0], [7.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(time, "process_time", lambda: used[0])
    heartbeat = Heartbeat()
    for seconds, own in gaps:
        now[0], used[0] = now[0] + seconds, used[0] + own
        heartbeat.suspended()
    return heartbeat.suspended()


def test_a_long_gap_without_processor_time_is_a_suspension(monkeypatch) -> None:
    assert beats(monkeypatch, (0.25, 0.2), (20.25, 0.1), (0.25, 0.2)) == pytest.approx(20.0)


@pytest.mark.parametrize("gap", [(20.0, 15.0), (20.0, 3.0), (1.5, 0.0)])
def test_a_busy_machine_and_a_long_computation_are_no_suspension(
    monkeypatch, gap: tuple[float, float]
) -> None:
    assert beats(monkeypatch, (0.25, 0.2), gap, (0.25, 0.2)) == 0.0


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system has no SIGSTOP")
def test_a_stopped_process_measures_its_suspension() -> None:
    code = (
        "import time\n"
        "from simplellm.training.clock import Heartbeat\n"
        "with Heartbeat() as heartbeat:\n"
        "    print('ready', flush=True)\n"
        "    end = time.time() + 3.2\n"
        "    while time.time() < end: sum(range(20000))\n"
        "    print(heartbeat.suspended())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGSTOP)
    time.sleep(2.6)
    process.send_signal(signal.SIGCONT)
    assert 2.2 < float(process.communicate()[0]) < 3.2
