"""The steps of sampling: what each setting does to the next token."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inference.byte_models import BYTES

from simplellm.config.sampling import SamplingParams
from simplellm.errors import SamplingError
from simplellm.evaluation.sampling_steps import STEPS, trace_next_token
from simplellm.inference.filters import distribution, softmax

LOGITS = np.log(np.array([0.5, 0.25, 0.125, 0.0625, 0.0625], np.float32))
OFF = {"temperature": 1, "top_k": 0, "top_p": 1}
PARAMS = st.builds(
    SamplingParams,
    temperature=st.floats(0, 5),
    top_k=st.integers(0, 6),
    top_p=st.floats(0.01, 1),
    min_p=st.floats(0, 0.99),
    repetition_penalty=st.floats(0.1, 10),
)


def traced(top: int = 5, ids: list[int] | None = None, also: int | None = None, **settings: float):
    params = SamplingParams(**{**OFF, **settings})
    return trace_next_token(BYTES, LOGITS, ids or [], params, top, also)


@given(PARAMS, st.lists(st.integers(0, 4), max_size=3))
def test_the_last_step_has_the_distribution_that_is_sampled(params, ids):
    found = trace_next_token(BYTES, LOGITS, ids, params, 5)
    tokens, after = distribution(LOGITS.copy(), ids, params)
    expected = dict(zip(tokens.tolist(), after.tolist(), strict=True))
    last = {one.id: one.probabilities[-1] for one in found.candidates if one.removed_by is None}
    assert last == pytest.approx(expected, abs=1e-6)
    assert found.steps[-1].n_kept == len(expected)


@given(PARAMS)
def test_a_removed_token_stays_removed(params):
    for one in trace_next_token(BYTES, LOGITS, [1], params, 5).candidates:
        first = STEPS.index(one.removed_by) if one.removed_by else len(STEPS)
        assert all(share > 0 for share in one.probabilities[:first])
        assert all(share == 0 for share in one.probabilities[first:])


@pytest.mark.parametrize(
    ("settings", "removed"),
    [
        ({"top_k": 2}, {2: "top_k", 3: "top_k", 4: "top_k"}),
        ({"top_p": 0.7}, {2: "top_p", 3: "top_p", 4: "top_p"}),
        ({"min_p": 0.2}, {3: "min_p", 4: "min_p"}),
        ({"temperature": 0}, dict.fromkeys((1, 2, 3, 4), "temperature")),
        ({"top_k": 3, "min_p": 0.4}, {2: "min_p", 3: "top_k", 4: "top_k"}),
        ({}, {}),
    ],
)
def test_a_token_is_removed_by_the_first_filter_that_excludes_it(settings, removed):
    found = traced(**settings)
    assert {one.id: one.removed_by for one in found.candidates if one.removed_by} == removed


def test_the_temperature_and_the_penalty_change_probabilities_and_keep_all_tokens():
    found = traced(temperature=0.5, repetition_penalty=2, ids=[0])
    most_likely = found.candidates[0]
    assert [step.n_kept for step in found.steps] == [5] * len(STEPS)
    penalty, temperature = most_likely.probabilities[:2]
    assert penalty < most_likely.probability == pytest.approx(0.5)
    assert temperature != pytest.approx(penalty)


def test_a_token_that_is_not_among_the_most_likely_can_be_described_too():
    found = traced(top=2, also=4)
    assert [(one.id, one.rank) for one in found.candidates] == [(0, 1), (1, 2), (4, 4)]
    assert [one.id for one in traced(top=2, also=1).candidates] == [0, 1]
    assert found.candidates[2].probability == pytest.approx(float(softmax(LOGITS)[4]))


def test_a_probability_below_the_smallest_float_is_not_a_removal():
    logits = np.array([0, -200], np.float32)
    params = SamplingParams(temperature=0.5, top_k=0, top_p=1)
    found = trace_next_token(BYTES, logits, [], params, 2)
    assert found.candidates[1].removed_by is None


def test_logits_that_are_not_finite_raise_a_sampling_error():
    logits = np.array([np.nan, 1], np.float32)
    with pytest.raises(SamplingError):
        trace_next_token(BYTES, logits, [], SamplingParams(), 1)
