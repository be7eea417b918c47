"""What is shown of the next token is what the model and the sampler really do."""

from __future__ import annotations

import pytest
import torch

from simplellm.analyze import candidates
from simplellm.checkpoint import Run, load_model
from simplellm.config import SamplingParams
from simplellm.sampler import Sampler, distribution

SETTINGS = [
    SamplingParams(),
    SamplingParams(temperature=0),
    SamplingParams(temperature=2, top_k=5, top_p=0.5),
    SamplingParams(min_p=0.2, repetition_penalty=3),
    SamplingParams(temperature=1, top_k=0, top_p=1),
]


@pytest.fixture(scope="module")
def sampler(trained) -> Sampler:
    return Sampler(*load_model(Run(trained / "tiny").best(), torch.device("cpu")))


@pytest.mark.parametrize("params", SETTINGS)
def test_candidates_are_the_softmax_and_the_samplers_own_distribution(sampler, params):
    ids = sampler.encode("The judge had")
    found = candidates(sampler, ids, params, 10**6)
    logits = sampler.next_logits(ids)
    tokens, after = distribution(logits, ids, params)
    expected = dict(zip(tokens.tolist(), after.tolist(), strict=True))
    assert len(found) == len(logits)
    assert sum(c.sampling_probability for c in found) == pytest.approx(1, abs=1e-5)
    assert {c.token for c in found if c.kept} == set(expected)
    assert {c.token: c.sampling_probability for c in found if c.kept} == pytest.approx(expected, abs=1e-6)
    assert all(c.sampling_probability == 0 for c in found if not c.kept)
    plain = torch.from_numpy(logits).double().softmax(0)
    assert all(c.probability == pytest.approx(float(plain[c.token]), abs=1e-6) for c in found)


def test_the_most_likely_come_first(sampler):
    found = candidates(sampler, [1, 2], SamplingParams(), 7)
    assert len(found) == 7
    assert [c.probability for c in found] == sorted((c.probability for c in found), reverse=True)


def test_a_mapping_has_the_keys_of_the_contract(sampler):
    (found,) = candidates(sampler, [1], SamplingParams(), 1)
    assert list(found.to_mapping()) == ["token", "text", "probability", "kept", "sampling_probability"]


def test_asking_changes_no_reply(sampler):
    params = SamplingParams(seed=4, max_new_tokens=8)
    texts = []
    for _ in range(2):
        texts.append("".join(piece.text for piece in sampler.stream(sampler.encode("The judge"), params)))
        candidates(sampler, sampler.encode("Jack Gisburn"), params, 3)
    assert texts[0] == texts[1]
