"""For any logits and any settings, a reply has allowed tokens only or is a typed error."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
from byte_models import BYTES, byte_model
from conftest import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from simplellm.config.sampling import SamplingParams
from simplellm.errors import SamplingError
from simplellm.inference.filters import PENALTY_WINDOW, distribution, draw
from simplellm.inference.sampler import Sampler

V, V_GPT2 = BYTES.vocab_size, 50_257
SLACK = 1e-3  # float32 sums
SPECIAL = [0.0, -0.0, 1.0, 1e-45, 3.4e38, -3.4e38, -math.inf]
BROKEN = [math.inf, math.nan]
STOP_REASONS = ("length", "stop", "end_of_text")
any_params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0, 1e-9, 1e-5, 1.0000001e-5, 0.5, 1, 5]) | st.floats(0, 5),
    top_k=st.sampled_from([0, 1, 2, V - 1, V, V + 1, 10**12]) | st.integers(0, V),
    top_p=st.sampled_from([1e-300, 1e-9, 0.5, 1 - 1e-16, 1]) | st.floats(0, 1, exclude_min=True),
    min_p=st.sampled_from([0, 1e-300, 0.5, 1 - 1e-16]) | st.floats(0, 1, exclude_max=True),
    repetition_penalty=st.sampled_from([1, 1e-300, 1e-3, 10]) | st.floats(0, 10, exclude_min=True),
    max_new_tokens=st.integers(1, 9),
    stop=st.lists(st.text(max_size=3).filter(bool), max_size=8).map(tuple),
    seed=st.sampled_from([None, 0, 2**63 - 1]) | st.integers(0, 2**63 - 1),
)  # fmt: skip


@st.composite
def any_logits(choose: st.DrawFn, unusual: list[float] = SPECIAL) -> np.ndarray:
    """Logits (V,) of a random scale, sometimes with ties and unusual values."""
    generator = np.random.default_rng(choose(st.integers(0, 2**32)))
    logits = np.float32(generator.normal(0, choose(st.sampled_from([0, 1e-6, 1, 30, 1e30])), V))
    if choose(st.booleans()):
        logits = np.round(logits)
    values = st.sampled_from(unusual) | st.floats(width=32, allow_nan=False, allow_infinity=False)
    for token, value in choose(st.dictionaries(st.integers(0, V - 1), values, max_size=20)).items():
        logits[token] = value
    return logits


class FakeModel(Sampler):
    """Gives the same logits for any ids."""

    def __init__(self, logits: np.ndarray) -> None:
        self.tokenizer, self.logits = BYTES, logits
        self.end_ids = frozenset({BYTES.end_of_text})

    def next_logits(self, ids: object) -> np.ndarray:
        return self.logits.copy()


@np.errstate(over="ignore")
def is_allowed(token: int, logits: np.ndarray, recent: list[int], params: SamplingParams) -> bool:
    """Whether the settings allow a token, in double precision; any of several ties is allowed."""
    limit, least = np.finfo(np.float32).max, np.finfo(np.float32).tiny
    penalty = np.float32(max(params.repetition_penalty, least))
    scores = logits.copy()
    if penalty != 1 and recent:
        seen = np.unique(recent)
        scaled = np.where(logits[seen] < 0, logits[seen] * penalty, logits[seen] / penalty).clip(
            -limit, limit
        )
        scores[seen] = np.where(np.isinf(logits[seen]), logits[seen], scaled)
    scores = np.float64(scores)
    likelier = scores > scores[token]
    if params.temperature < 1e-5:
        return not likelier.any()
    if params.top_k and likelier.sum() >= params.top_k:
        return False
    lowest = np.sort(scores)[-min(params.top_k or V, V)]
    weights = np.where(scores >= lowest, np.exp((scores - scores.max()) / params.temperature), 0)
    mass_before = weights[weights > weights[token] * (1 + SLACK)].sum() / weights.sum()
    is_in_nucleus, is_likely = (
        mass_before <= params.top_p + SLACK,
        weights[token] >= params.min_p * (1 - SLACK),
    )
    return bool(is_in_nucleus and is_likely and weights[token] > 0)


def check_a_reply(logits: np.ndarray, params: SamplingParams, prompt: list[int]) -> None:
    reply = FakeModel(logits).stream(prompt, params)
    list(reply)
    assert reply.stop_reason in STOP_REASONS and 1 <= len(reply.new_ids) <= params.max_new_tokens
    ids = [*prompt, *reply.new_ids]
    for i in range(len(prompt), len(ids)):
        recent = ids[max(i - PENALTY_WINDOW, 0) : i]
        assert is_allowed(ids[i], logits, recent, params), (i, ids[i])


prompts = st.lists(st.integers(0, V - 1), min_size=1, max_size=80)


@settings(deadline=None, max_examples=examples(150))
@given(any_logits(), any_params, prompts)
def test_the_settings_allow_every_token_of_a_reply(logits, params, prompt):
    check_a_reply(logits, params, prompt)


@pytest.mark.slow
def test_the_settings_allow_every_token_of_ten_thousand_replies(capsys):
    replies = 0

    @settings(deadline=None, max_examples=10_000, database=None)
    @given(any_logits(), any_params, prompts)
    def check(logits, params, prompt):
        nonlocal replies
        check_a_reply(logits, params, prompt)
        replies += 1

    check()
    with capsys.disabled():
        sys.stdout.write(
            f"\n{replies:,} replies to random logits and settings: no token that is not allowed\n"
        )


@settings(deadline=None, max_examples=examples(100))
@given(any_logits(SPECIAL + BROKEN), any_params, prompts)
def test_non_finite_logits_give_a_sampling_error_and_no_token(logits, params, prompt):
    reply = FakeModel(logits).stream(prompt, params)
    try:
        list(reply)
    except SamplingError as error:
        assert not np.isfinite(logits.max()) and reply.new_ids == []
        assert len(str(error).splitlines()) == 1
    else:
        assert np.isfinite(logits.max())


@settings(deadline=None, max_examples=examples(100))
@given(any_logits(), prompts, st.integers(0, 9))
def test_temperature_zero_takes_the_argmax(logits, prompt, seed):
    params = SamplingParams(
        temperature=0, top_k=3, top_p=0.5, min_p=0.5, max_new_tokens=1, seed=seed
    )
    reply = FakeModel(logits).stream(prompt, params)
    list(reply)
    assert reply.new_ids == [int(logits.argmax())]


@pytest.mark.parametrize(
    "logits",
    [np.zeros(V_GPT2), np.arange(V_GPT2) % 7, np.full(V_GPT2, -3e38)],
    ids=["flat", "tied", "low"],
)
@pytest.mark.parametrize(
    "given", [{"top_k": 0}, {"top_k": 1, "min_p": 0.9}, {"temperature": 5, "top_p": 1}], ids=str
)
def test_ties_in_a_large_vocabulary_can_be_sampled(logits, given):
    tokens, probabilities = distribution(np.float32(logits), [], SamplingParams(**given))
    assert math.isclose(float(probabilities.sum(dtype=np.float64)), 1, abs_tol=1e-4)
    assert logits[draw(tokens, probabilities, np.random.default_rng(1))] == logits.max()


def test_non_finite_weights_give_an_error_and_do_not_affect_later_replies():
    model = byte_model()
    sampler = Sampler(model, BYTES)
    intact = sampler.stream([65], SamplingParams(seed=1, max_new_tokens=5))
    list(intact)
    weight, before = model.final_norm.weight.data, model.final_norm.weight.data.clone()
    weight.fill_(math.nan)
    broken = sampler.stream([65, 66], SamplingParams(seed=1))
    with pytest.raises(SamplingError):
        list(broken)
    assert broken.new_ids == []
    weight.copy_(before)
    again = sampler.stream([65], replace(intact.params))
    list(again)
    assert again.new_ids == intact.new_ids
