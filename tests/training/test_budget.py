"""A budget is used and kept, whatever else the machine does meanwhile: the controller against simulated machines."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from simplellm.config.training import TrainConfig
from simplellm.training.budget import BudgetController, RecordedDecisions, eval_interval
from simplellm.training.clock import Clock, Heartbeat
from simplellm.training.distributed import World
from simplellm.training.limits import Limits
from simplellm.training.progress import Progress
from simplellm.training.schedule import Decision, progress, rate_factor

Speed = Callable[[float], float]  # share of the quiet machine's speed at a time
BUDGET, PLANNED_STEPS, STEP_SECONDS = 65.0, 430, 0.14


class Machine:
    """A trainer without a model, on a machine whose speed is known at each time. Its clock is the one that is patched in."""

    def __init__(
        self,
        speed: Speed,
        schedule: str = "wsd",
        planned: int = PLANNED_STEPS,
        budget: float = BUDGET,
    ) -> None:
        self.now, self.speed = 0.0, speed
        self.config = TrainConfig(
            budget=budget, max_steps=planned, schedule=schedule, warmup_steps=0
        )
        self.decisions = [Decision(0, planned, -(-planned // 20))]
        self.world, self.device = World(), torch.device("cpu")
        self.validation = SimpleNamespace(final_tokens=20_000)
        self.step = self.evaluated_step = 0
        self.progress = Progress(
            evaluation_steps=0.3 / STEP_SECONDS, pause_steps=0.4 / STEP_SECONDS
        )
        self.recorded: list[Decision] = []

    def take(self, decision: Decision) -> None:
        self.decisions.append(decision)
        self.config = replace(self.config, max_steps=decision.max_steps)

    @property
    def rate_factor(self) -> float:
        return rate_factor(self.step, self.decisions, 0, self.config.schedule)

    def work(self, seconds: float) -> float:
        """Do what takes so long on a quiet machine; returns what it took."""
        started_at = self.now
        while seconds > 0:
            slice = min(seconds, 0.05)
            self.now += slice / self.speed(self.now)
            seconds -= slice
        return self.now - started_at

    def train(self, controller: BudgetController, monkeypatch: pytest.MonkeyPatch) -> float:
        """Seconds until the end of the run."""
        with monkeypatch.context() as patch:
            patch.setattr(time, "perf_counter", lambda: self.now)
            self.clock = Clock(before=4.0)
            while self.step < self.config.max_steps:
                with self.clock.timed_step():
                    self.work(STEP_SECONDS)
                    self.step += 1
                controller(self)  # type: ignore[arg-type]
                if (
                    self.step - self.evaluated_step >= self.decisions[-1].eval_interval
                    or self.step == self.config.max_steps
                ):
                    self.evaluated_step = self.step
                    self.work(0.4)
            self.work(1.0)  # the report
            return self.clock.seconds


def run(machine: Machine, monkeypatch: pytest.MonkeyPatch, **options: Any) -> float:
    recorded = RecordedDecisions(**options)
    controller = BudgetController(Limits(10**9), machine.recorded.extend, recorded)
    return machine.train(controller, monkeypatch)


PROFILES: dict[str, Speed] = {
    "quiet": lambda now: 1.0,
    "busy during the first 15 s": lambda now: 0.3 if now < 15 else 1.0,
    "busy during the last 15 s": lambda now: 0.3 if now > 46 else 1.0,
    "on and off every 5 s": lambda now: 0.3 if int(now / 5) % 2 else 1.0,
    "busy all the time": lambda now: 0.3,
    "spinning": lambda now: 0.05 if int(now / 7) % 3 == 1 else 1.0,
    "three times as fast": lambda now: 3.0,
    "slower and slower": lambda now: 1 / (1 + now / 20),
}


@pytest.mark.parametrize("schedule", ["wsd", "linear", "cosine", "constant", "noam"])
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("planned", [103, 430, 1500])
def test_a_budget_is_used_and_kept(monkeypatch, profile: str, schedule: str, planned: int) -> None:
    machine = Machine(PROFILES[profile], schedule, planned)
    seconds = run(machine, monkeypatch)
    assert 0.92 < seconds / BUDGET < 1.03 and len(machine.decisions) < 60
    if schedule in ("wsd", "linear", "cosine"):
        assert machine.rate_factor < (0.3 if profile == "spinning" else 0.05), (
            "and the rate has decayed"
        )


@settings(deadline=None, max_examples=40, phases=[Phase.explicit, Phase.generate])
@given(
    pieces=st.lists(st.tuples(st.floats(0.5, 20), st.floats(0.2, 3)), min_size=1, max_size=20),
    planned=st.integers(20, 3000),
    budget=st.sampled_from([40.0, 65.0, 200.0]),
)
def test_whatever_the_machine_does(
    pieces: list[tuple[float, float]], planned: int, budget: float
) -> None:
    def speed(now: float) -> float:
        left = now % sum(length for length, _ in pieces)
        for length, share in pieces:
            if left < length:
                return share
            left -= length
        return pieces[-1][1]

    with pytest.MonkeyPatch.context() as monkeypatch:
        seconds = run(Machine(speed, planned=planned, budget=budget), monkeypatch)
    assert 0.88 < seconds / budget < 1.02 + 6.0 / budget  # the last evaluation alone may take 2 s


@pytest.mark.parametrize("begin", [8, 20, 30, 40])
def test_one_long_step_is_not_taken_for_a_slow_machine(monkeypatch, begin: int) -> None:
    machine = Machine(lambda now: 1.0)

    def work(seconds: float) -> float:
        before = machine.now
        machine.now += seconds + (20.0 if before < begin <= before + seconds else 0.0)
        return machine.now - before

    machine.work = work  # type: ignore[method-assign]
    seconds = run(machine, monkeypatch)
    assert 0.92 < seconds / BUDGET < 1.05 and machine.rate_factor < 0.05
    assert begin == 40 or machine.step == pytest.approx(
        (BUDGET * 0.97 - 24) / (STEP_SECONDS * 1.13), rel=0.08
    )


def test_a_decay_that_has_yet_to_begin_when_time_is_up_is_still_done(monkeypatch) -> None:
    machine = Machine(lambda now: 1.0)

    def work(seconds: float) -> float:
        before = machine.now
        machine.now += seconds + (50.0 if before < 20 <= before + seconds else 0.0)
        return machine.now - before

    machine.work = work  # type: ignore[method-assign]
    seconds = run(machine, monkeypatch)
    assert seconds > 4 + 70 and seconds - (4 + 70) < 0.06 * BUDGET and machine.rate_factor < 0.1


def test_a_limit_that_time_cannot_raise_stands(monkeypatch) -> None:
    machine = Machine(lambda now: 3.0, planned=200)
    machine.train(BudgetController(Limits(200), machine.recorded.extend), monkeypatch)
    assert machine.step == 200 and machine.recorded == []


def test_where_nothing_differs_from_the_plan_nothing_is_decided(monkeypatch) -> None:
    machine = Machine(lambda now: 1.0, planned=375)
    run(machine, monkeypatch)
    assert len(machine.decisions) <= 3


def test_recorded_decisions_are_repeated_and_nothing_else_is_decided_until_then(
    monkeypatch,
) -> None:
    first = Machine(PROFILES["on and off every 5 s"])
    run(first, monkeypatch)
    again = Machine(PROFILES["three times as fast"])
    again.decisions = first.decisions[:1]
    run(again, monkeypatch, decisions=tuple(first.decisions[1:]), decided_until=first.step)
    assert again.decisions == first.decisions and again.step == first.step and again.recorded == []
    shares = [
        [progress(step, machine.decisions, 0.6) for step in range(first.step)]
        for machine in (first, again)
    ]
    assert shares[0] == shares[1]


def test_after_the_recorded_decisions_new_ones_are_made(monkeypatch) -> None:
    machine = Machine(PROFILES["busy all the time"])
    seconds = run(machine, monkeypatch, decisions=(Decision(9, 500, 25),), decided_until=9)
    assert (
        machine.decisions[1] == Decision(9, 500, 25)
        and machine.decisions[2].step > 9
        and seconds < 1.03 * BUDGET
    )


def test_evaluations_take_their_share_and_no_more() -> None:
    assert eval_interval(400, [(0.05, 0.1)]) == 20
    assert eval_interval(400, [(0.05, 10.0)]) == 200
    assert eval_interval(400, [(0.05, 0.1), (0.025, 1000.0)]) == 400


# ---------------------------------------------------------------- the clock


def test_a_clock_tells_what_a_step_takes_now(monkeypatch) -> None:
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


def test_a_clock_leaves_suspensions_out_from_when_it_is_told(monkeypatch) -> None:
    now, suspended = [0.0], [5.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = Clock(before=1.0)
    clock.leave_out(lambda: suspended[0])
    now[0] = 10.0
    assert clock.seconds == 11.0
    suspended[0], now[0] = 25.0, 30.0
    assert clock.seconds == 11.0


def beats(monkeypatch: pytest.MonkeyPatch, *gaps: tuple[float, float]) -> float:
    """Seconds of suspension after beats that lie so far apart, with so much processor time between them."""
    now, used = [100.0], [7.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(time, "process_time", lambda: used[0])
    heartbeat = Heartbeat()
    for seconds, own in gaps:
        now[0], used[0] = now[0] + seconds, used[0] + own
        heartbeat.suspended()
    return heartbeat.suspended()


def test_a_gap_without_work_is_a_suspension(monkeypatch) -> None:
    assert beats(monkeypatch, (0.25, 0.2), (20.25, 0.1), (0.25, 0.2)) == pytest.approx(20.0)


@pytest.mark.parametrize("gap", [(20.0, 15.0), (20.0, 3.0), (1.5, 0.0)])
def test_a_busy_machine_and_a_long_computation_are_no_suspension(
    monkeypatch, gap: tuple[float, float]
) -> None:
    assert beats(monkeypatch, (0.25, 0.2), gap, (0.25, 0.2)) == 0.0


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system has no SIGSTOP")
def test_a_stopped_process_knows_for_how_long() -> None:
    code = (
        "import time\nfrom simplellm.training.clock import Heartbeat\nwith Heartbeat() as heartbeat:\n"
        "    print('ready', flush=True)\n    end = time.time() + 3.2\n    while time.time() < end: sum(range(20000))\n"
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
