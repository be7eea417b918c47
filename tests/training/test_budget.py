"""The budget controller on simulated machines: a budget is used and kept at any speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import examples
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from simplellm.config.training import TrainConfig
from simplellm.training.budget import BudgetController, RecordedDecisions, eval_interval
from simplellm.training.clock import Clock
from simplellm.training.distributed import World
from simplellm.training.progress import Progress
from simplellm.training.schedule import Decision, progress, rate_factor
from simplellm.training.step_limits import Limits

Speed = Callable[[float], float]  # share of the quiet machine's speed at a time
BUDGET, PLANNED_STEPS, STEP_SECONDS = 65.0, 430, 0.14


class Machine:
    """A trainer without a model, on a machine of known speed, whose clock is patched in."""

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


@pytest.mark.slow
@settings(deadline=None, max_examples=examples(40), phases=[Phase.explicit, Phase.generate])
@given(
    pieces=st.lists(st.tuples(st.floats(0.5, 20), st.floats(0.2, 3)), min_size=1, max_size=20),
    planned=st.integers(20, 3000),
    budget=st.sampled_from([40.0, 65.0, 200.0]),
)
def test_a_budget_is_kept_at_any_course_of_the_machines_speed(
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
def test_one_long_step_does_not_count_as_a_slow_machine(monkeypatch, begin: int) -> None:
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


def test_the_decay_is_done_even_where_time_is_up_before_it(monkeypatch) -> None:
    machine = Machine(lambda now: 1.0)

    def work(seconds: float) -> float:
        before = machine.now
        machine.now += seconds + (50.0 if before < 20 <= before + seconds else 0.0)
        return machine.now - before

    machine.work = work  # type: ignore[method-assign]
    seconds = run(machine, monkeypatch)
    assert seconds > 4 + 70 and seconds - (4 + 70) < 0.06 * BUDGET and machine.rate_factor < 0.1


def test_spare_time_does_not_raise_the_step_limit(monkeypatch) -> None:
    machine = Machine(lambda now: 3.0, planned=200)
    machine.train(BudgetController(Limits(200), machine.recorded.extend), monkeypatch)
    assert machine.step == 200 and machine.recorded == []


def test_a_run_as_fast_as_planned_needs_hardly_any_decision(monkeypatch) -> None:
    machine = Machine(lambda now: 1.0, planned=375)
    run(machine, monkeypatch)
    assert len(machine.decisions) <= 3


def test_recorded_decisions_are_repeated_and_no_others_are_made_before_their_end(
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


def test_evaluations_take_no_more_than_their_share_of_the_time() -> None:
    assert eval_interval(400, [(0.05, 0.1)]) == 20
    assert eval_interval(400, [(0.05, 10.0)]) == 200
    assert eval_interval(400, [(0.05, 0.1), (0.025, 1000.0)]) == 400
