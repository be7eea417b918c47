"""The learning rate is a function of the step and of the decisions made until then."""

from __future__ import annotations

import math

import pytest
from conftest import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from simplellm.training.schedule import (
    CONSTANT_SHARE,
    WSD_DECAY_SHARE,
    Decision,
    progress,
    rate_factor,
)

SCHEDULES = ["linear", "cosine", "constant", "wsd", "noam"]
places = settings(deadline=None, max_examples=examples(200))
plans = st.tuples(st.integers(1, 500), st.floats(0, 0.9)).map(
    lambda plan: (plan[0], int(plan[0] * plan[1]))
)


def fixed(max_steps: int) -> list[Decision]:
    return [Decision(0, max_steps, max_steps)]


@st.composite
def decisions(draw: st.DrawFn) -> list[Decision]:
    """Possible decisions of a run with a budget: at rising steps, about ends after them."""
    steps = [0, *sorted(draw(st.sets(st.integers(1, 400), max_size=6)))]
    return [
        Decision(step, step + draw(st.integers(1 if step == 0 else 0, 500)), 10) for step in steps
    ]


@pytest.mark.parametrize("schedule", SCHEDULES)
@places
@given(plan=plans, minimum=st.floats(0, 1))
def test_a_rate_rises_to_one_and_then_never_rises(
    schedule: str, plan: tuple[int, int], minimum: float
) -> None:
    max_steps, warmup = plan
    rates = [
        rate_factor(step, fixed(max_steps), warmup, schedule, minimum)
        for step in range(max_steps + 1)
    ]
    rise, fall = rates[:warmup], rates[warmup:]
    assert all(0 < earlier < later for earlier, later in zip(rise, rates[1:], strict=False))
    assert fall[0] == pytest.approx(1.0) and max(rates) <= 1.0 + 1e-9
    assert all(later <= earlier + 1e-12 for earlier, later in zip(fall, fall[1:], strict=False))


@pytest.mark.parametrize(
    ("schedule", "last"),
    [
        ("linear", 0.25),
        ("cosine", 0.25),
        ("wsd", 0.25),
        ("constant", 1.0),
        ("noam", math.sqrt(10 / 100)),
    ],
)
def test_a_rate_ends_at_its_minimum_and_stays_there(schedule: str, last: float) -> None:
    assert rate_factor(100, fixed(100), 10, schedule, 0.25) == pytest.approx(last)
    assert rate_factor(150, fixed(100), 10, schedule, 0.25) <= last + 1e-12


def test_wsd_keeps_its_peak_for_most_of_the_steps() -> None:
    assert [
        rate_factor(step, fixed(100), 0, "wsd") for step in (0, 30, 60, 80, 100)
    ] == pytest.approx([1, 1, 1, 0.5, 0])


@places
@given(decisions=decisions(), schedule=st.sampled_from(SCHEDULES), step=st.integers(0, 900))
def test_a_rate_does_not_depend_on_later_decisions(
    decisions: list[Decision], schedule: str, step: int
) -> None:
    """So a resumed run has the rates of the run that was interrupted."""
    known = [decision for decision in decisions if decision.step <= step]
    assert rate_factor(step, decisions, 3, schedule) == rate_factor(step, known, 3, schedule)


@places
@given(decisions=decisions(), schedule=st.sampled_from(["linear", "cosine", "wsd"]))
def test_a_rate_never_jumps_up_and_ends_at_zero_for_any_decisions(
    decisions: list[Decision], schedule: str
) -> None:
    for before, after in zip(
        decisions, decisions[1:], strict=False
    ):  # made at a step of the run, not after its end
        if before.max_steps <= after.step:
            return
    end = decisions[-1].max_steps
    rates = [rate_factor(step, decisions, 0, schedule) for step in range(end + 1)]
    assert rates[-1] == pytest.approx(0, abs=1e-9) or decisions[-1].step == end
    assert all(later <= earlier + 1e-9 for earlier, later in zip(rates, rates[1:], strict=False))


@pytest.mark.parametrize(
    ("at", "first_plan", "second_plan"),
    [(10, 30, 500), (40, 100, 60), (59, 100, 200), (3, 1000, 9)],
)
def test_a_decision_before_the_decay_gives_the_rates_of_a_run_planned_that_way(
    at: int, first_plan: int, second_plan: int
) -> None:
    decided = [Decision(0, first_plan, 10), Decision(at, second_plan, 10)]
    known_before = min(at, round((1 - WSD_DECAY_SHARE) * min(first_plan, second_plan)))
    for step in (
        [*range(known_before), *range(at, second_plan + 1)]
        if at < 0.6 * second_plan
        else range(known_before)
    ):
        assert rate_factor(step, decided, 0, "wsd") == pytest.approx(
            rate_factor(step, fixed(second_plan), 0, "wsd")
        )


def test_a_late_decision_decays_over_the_remaining_steps() -> None:
    decided = [
        Decision(0, 1000, 10),
        Decision(50, 60, 10),
    ]  # the decay should have begun at step 36
    rates = [rate_factor(step, decided, 0, "wsd") for step in range(50, 61)]
    assert rates == pytest.approx([1 - i / 10 for i in range(11)])


def test_progress_is_linear_in_the_steps_of_a_single_decision() -> None:
    assert [progress(step, fixed(10)) for step in (0, 2.5, 10, 12)] == [0, 0.25, 1, 1]
    assert progress(2, fixed(10), first_step=2) == 0 and progress(6, fixed(10), first_step=2) == 0.5
    assert CONSTANT_SHARE["wsd"] == pytest.approx(0.6)


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"step": 0, "max_steps": 0},
        {"step": 5, "max_steps": 3, "eval_interval": 1},
        {"step": -1, "max_steps": 3, "eval_interval": 1},
        {"step": 0, "max_steps": 3, "eval_interval": 0},
        {"step": "x", "max_steps": 3, "eval_interval": 1},
    ],
)
def test_a_damaged_decision_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises((KeyError, ValueError)):
        Decision.from_mapping(bad)
    good = Decision(3, 9, 2)
    assert Decision.from_mapping(good.to_mapping()) == good
