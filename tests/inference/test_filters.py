"""Sampling filters keep the same tokens as transformers, and draws follow the distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from byte_models import GREEDY
from conftest import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st

from simplellm.config.sampling import SamplingParams
from simplellm.errors import SamplingError
from simplellm.inference.filters import distribution, draw

# Which of several ties transformers keeps is defined only up to 16 values: its sort of longer lists
# is not stable.
logits_with_ties = st.lists(
    st.sampled_from([-9.0, -2.0, -0.5, 0.0, 0.25, 1.0, 2.0, 7.5]), min_size=1, max_size=16
)
distinct_logits = st.lists(
    st.integers(-3000, 3000).map(lambda n: n / 256), min_size=1, max_size=40, unique=True
)
wild_logits = st.lists(
    st.floats(width=32)
    | st.sampled_from([0.0, 1.0, -math.inf, math.inf, math.nan, 3.4e38, -3.4e38]),
    min_size=1,
    max_size=20,
)
any_params = st.builds(
    SamplingParams,
    temperature=st.one_of(st.sampled_from([0, 1e-9, 1e-5, 1]), st.floats(0, 5)),
    top_k=st.integers(0, 50),
    top_p=st.floats(1e-9, 1),
    min_p=st.floats(0, 0.999),
    repetition_penalty=st.one_of(st.just(1.0), st.floats(1e-3, 10)),
)


def hf_scores(logits: torch.Tensor, recent: list[int], params: SamplingParams) -> torch.Tensor:
    """Scores (V,) after the logits warpers of transformers in the same order."""
    from transformers import generation

    warpers = []
    if params.repetition_penalty != 1 and recent:
        warpers.append(generation.RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    warpers.append(generation.TemperatureLogitsWarper(params.temperature))
    if params.top_k:
        warpers.append(generation.TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        warpers.append(generation.TopPLogitsWarper(params.top_p))
    if params.min_p:
        warpers.append(generation.MinPLogitsWarper(params.min_p))
    return generation.LogitsProcessorList(warpers)(
        torch.tensor([recent], dtype=torch.long), logits[None]
    )[0]


@pytest.mark.usefixtures("transformers")
@settings(deadline=None, max_examples=examples(300))
@given(
    values=distinct_logits | logits_with_ties,
    temperature=st.sampled_from([0.1, 0.5, 0.8, 1.0, 2.0, 5.0]),
    top_k=st.integers(0, 45),
    top_p=st.sampled_from([0.05, 0.3, 0.5, 0.75, 0.9, 0.95, 1.0]),
    min_p=st.sampled_from([0, 0.01, 0.1, 0.5, 0.9]),
    penalty=st.sampled_from([0.5, 1.0, 1.3, 5.0]),
    recent=st.lists(st.integers(0, 39), max_size=8),
)
def test_the_kept_tokens_equal_those_of_transformers(
    values, temperature, top_k, top_p, min_p, penalty, recent
):
    params = SamplingParams(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=penalty
    )
    logits, recent = np.float32(values), [token for token in recent if token < len(values)]
    expected = hf_scores(torch.from_numpy(logits), recent, params)
    tokens, probabilities = distribution(logits, recent, params)
    assert set(tokens.tolist()) == set(expected.isfinite().nonzero().flatten().tolist())
    np.testing.assert_allclose(
        probabilities, expected.softmax(0).numpy()[tokens], atol=1e-5, rtol=1e-3
    )


@settings(deadline=None, max_examples=examples(300))
@example([-3.4e38, -3.4e38], SamplingParams(repetition_penalty=10, top_k=0, top_p=1), [0, 1], 1)
@example([1.0, 1.0, 1.0], SamplingParams(top_k=1), [], 1)
@given(wild_logits, any_params, st.lists(st.integers(0, 19), max_size=8), st.integers(0, 2**63 - 1))
def test_any_logits_give_a_kept_token_or_a_sampling_error(values, params, recent, seed):
    recent = [token for token in recent if token < len(values)]
    try:
        tokens, probabilities = distribution(np.float32(values), recent, params)
    except SamplingError:
        assert not math.isfinite(
            max(values, key=lambda value: math.inf if math.isnan(value) else value)
        )
    else:
        assert len(set(tokens.tolist())) == len(tokens) >= 1
        assert float(probabilities.sum()) == pytest.approx(1, abs=1e-4)
        assert draw(tokens, probabilities, np.random.default_rng(seed)) in tokens.tolist()


@given(
    wild_logits.filter(
        lambda values: math.isfinite(max(values)) and not any(map(math.isnan, values))
    )
)
@settings(deadline=None)
def test_temperature_zero_keeps_the_most_likely_token(values):
    tokens, _ = distribution(np.float32(values), [], GREEDY)
    assert tokens.tolist() == [int(np.float32(values).argmax())]


def test_tokens_of_probability_zero_are_not_drawn():
    generator = np.random.default_rng(1)
    tokens, probabilities = np.arange(4), np.float32([0.0, 0.5, 0.5, 0.0])
    assert {draw(tokens, probabilities, generator) for _ in range(500)} == {1, 2}


def test_draws_follow_their_probabilities():
    expected = np.float32([0.5, 0.3, 0.15, 0.05])
    generator, n = np.random.default_rng(7), 4000
    counts = np.bincount([draw(np.arange(4), expected, generator) for _ in range(n)], minlength=4)
    chi_square = float(((counts - n * expected) ** 2 / (n * expected)).sum())
    assert chi_square < 16.27  # 3 degrees of freedom, 0.1%
