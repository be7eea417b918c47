"""Analysis shows what the model and the sampler compute."""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from simplellm.checkpoint.hugging_face import to_hub_config, to_hub_state
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.step_folder import load_model
from simplellm.config.sampling import SamplingParams
from simplellm.data.tokenizer import END_OF_TEXT, Tokenizer
from simplellm.evaluation.analyze import (
    about_bytes,
    attention,
    candidates,
    character_spans,
    token_probabilities,
    token_text,
)
from simplellm.inference.filters import distribution
from simplellm.inference.sampler import Sampler

SETTINGS = [
    SamplingParams(),
    SamplingParams(temperature=0),
    SamplingParams(temperature=2, top_k=5, top_p=0.5),
    SamplingParams(min_p=0.2, repetition_penalty=3),
    SamplingParams(temperature=1, top_k=0, top_p=1),
]


@pytest.fixture(scope="module")
def sampler(trained) -> Sampler:
    return Sampler(*load_model(RunFolder(trained / "tiny").best(), torch.device("cpu")))


@pytest.mark.parametrize("params", SETTINGS)
def test_candidates_have_the_softmax_and_the_sampling_distribution(sampler, params):
    ids = sampler.encode("The judge had")
    found = candidates(sampler, ids, params, 10**6)
    logits = sampler.next_logits(ids)
    tokens, after = distribution(logits, ids, params)
    expected = dict(zip(tokens.tolist(), after.tolist(), strict=True))
    assert len(found) == len(logits)
    assert sum(c.sampling_probability for c in found) == pytest.approx(1, abs=1e-5)
    assert {c.token for c in found if c.kept} == set(expected)
    assert {c.token: c.sampling_probability for c in found if c.kept} == pytest.approx(
        expected, abs=1e-6
    )
    assert all(c.sampling_probability == 0 for c in found if not c.kept)
    plain = torch.from_numpy(logits).double().softmax(0)
    assert all(c.probability == pytest.approx(float(plain[c.token]), abs=1e-6) for c in found)


def test_candidates_are_sorted_by_probability(sampler):
    found = candidates(sampler, [1, 2], SamplingParams(), 7)
    assert len(found) == 7
    assert [c.probability for c in found] == sorted((c.probability for c in found), reverse=True)


def test_a_candidate_has_the_json_keys_of_the_contract(sampler):
    (found,) = candidates(sampler, [1], SamplingParams(), 1)
    assert list(found.to_mapping()) == [
        "token",
        "text",
        "probability",
        "kept",
        "sampling_probability",
    ]


def test_candidates_do_not_change_replies(sampler):
    params = SamplingParams(seed=4, max_new_tokens=8)
    texts = []
    for _ in range(2):
        texts.append(
            "".join(piece.text for piece in sampler.stream(sampler.encode("The judge"), params))
        )
        candidates(sampler, sampler.encode("Jack Gisburn"), params, 3)
    assert texts[0] == texts[1]


# ---------------------------------------------------------------- the tokens of a reply

REPLIES = {
    "greedy": SamplingParams(temperature=0, max_new_tokens=12),
    "sampled": SamplingParams(temperature=1.5, top_k=0, top_p=1, seed=4, max_new_tokens=12),
    "filtered": SamplingParams(
        temperature=0.7, top_k=9, min_p=0.05, repetition_penalty=2, seed=4, max_new_tokens=12
    ),
    "stopped": SamplingParams(
        temperature=0, max_new_tokens=30, stop=("zzz", "e", "a", "o", "t", "n")
    ),
    "one": SamplingParams(max_new_tokens=1, seed=1),
}


def expected_statistics(
    sampler: Sampler, prompt: list[int], new_ids: list[int]
) -> list[tuple[int, float, int, float]]:
    """Id, probability, rank and entropy by the softmax of logits without a cache."""
    found = []
    for n, token in enumerate(new_ids):
        with torch.no_grad():
            probabilities = (
                sampler.model(torch.tensor([[*prompt, *new_ids[:n]]]))[0, -1].double().softmax(0)
            )
        rank = 1 + int((probabilities > probabilities[token]).sum())
        found.append(
            (
                token,
                float(probabilities[token]),
                rank,
                float(torch.special.entr(probabilities).sum()),
            )
        )
    return found


def check_statistics(sampler: Sampler, params: SamplingParams, prompt: list[int]) -> tuple:
    reply = sampler.stream(prompt, params)
    found = token_probabilities(sampler, reply, list(reply))
    expected = expected_statistics(sampler, prompt, reply.new_ids)
    assert [(one.id, one.rank) for one in found] == [
        (token, rank) for token, _, rank, _ in expected
    ]
    numbers = (
        [[one.probability, one.entropy] for one in found],
        [[p, entropy] for _, p, _, entropy in expected],
    )
    np.testing.assert_allclose(*numbers, atol=1e-5)
    assert [one.token for one in found] == [
        token_text(sampler.tokenizer, token) for token in reply.new_ids
    ]
    return reply, found


@pytest.mark.parametrize("params", REPLIES.values(), ids=REPLIES)
def test_the_statistics_of_a_reply_equal_those_of_uncached_logits(sampler, params):
    reply, found = check_statistics(sampler, params, sampler.encode("The judge"))
    assert len(found) == len(reply.new_ids) >= 1
    if params.stop:
        assert reply.stop_reason == "stop" and len(found) < params.max_new_tokens


def test_the_end_of_text_token_has_statistics_too(sampler):
    prompt, params = sampler.encode("The judge"), REPLIES["sampled"]
    first = sampler.stream(prompt, params)
    list(first)
    tokenizer = copy.copy(sampler.tokenizer)
    tokenizer.end_of_text = first.new_ids[3]
    reply, found = check_statistics(Sampler(sampler.model, tokenizer), params, prompt)
    assert reply.stop_reason == "end_of_text" and found[-1].id == tokenizer.end_of_text
    assert len(found) == first.new_ids.index(first.new_ids[3]) + 1


def test_a_token_probability_has_the_json_keys_of_the_contract(sampler):
    reply = sampler.stream([1], replace(REPLIES["one"], seed=2))
    (found,) = token_probabilities(sampler, reply, list(reply))
    assert list(found.to_mapping()) == ["token", "id", "probability", "rank", "entropy"]


def test_a_partial_character_is_shown_as_bytes(tokenizer: Tokenizer):
    assert token_text(tokenizer, tokenizer.end_of_text) == END_OF_TEXT
    texts = [token_text(tokenizer, token) for token in tokenizer.encode("a 한")]
    assert "".join(texts) == "a <0xED><0x95><0x9C>"
    assert "several tokens" in about_bytes(texts) and not about_bytes(["a", "한", END_OF_TEXT])


@settings(deadline=None, max_examples=examples(60))
@given(st.lists(st.integers(0, 256), max_size=20), st.text("aé한🙂", max_size=6))
def test_character_spans_cover_all_tokens_and_the_text(
    tokenizer: Tokenizer, noise: list[int], text: str
):
    ids = [*tokenizer.encode(text), *noise]
    found = list(character_spans(tokenizer, ids))
    assert [index for _, first, last in found for index in range(first, last)] == list(
        range(len(ids))
    )
    if tokenizer.end_of_text not in ids:
        data = b"".join(map(tokenizer.token_bytes, ids))
        assert "".join(text for text, _, _ in found) == re.sub(
            "[\udc80-\udcff]",
            lambda invalid: f"<0x{ord(invalid[0]) - 0xDC00:02X}>",
            data.decode(errors="surrogateescape"),
        )


# ---------------------------------------------------------------- attention


@pytest.mark.usefixtures("transformers")
def test_attention_equals_that_of_transformers(tiny_model):
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.no_grad():
        for block in tiny_model.blocks:
            block.attention.qkv.weight.mul_(3)  # makes the weights less uniform
    data = to_hub_config(tiny_model.config, end_of_text=0)
    config = AutoConfig.for_model(data.pop("model_type"), **data, attn_implementation="eager")
    hf_model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    hf_model.load_state_dict(to_hub_state(tiny_model.state_dict(), tiny_model.config), strict=False)
    hf_model.tie_weights()
    for length in (1, 2, 32):
        ids = torch.randint(300, (1, length), generator=torch.Generator().manual_seed(length))
        found = attention(tiny_model, ids[0].tolist())
        with torch.no_grad():
            expected = torch.stack(
                [layer[0, :, -1] for layer in hf_model(ids, output_attentions=True).attentions]
            )
        assert found.shape == (2, 4, length) and (length == 1 or found.std() > 0.02)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_the_analysis_of_attention_does_not_change_the_model(tiny_model):
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        before = tiny_model(ids)
        attention(tiny_model, [5, 6, 7])
        assert torch.equal(tiny_model(ids), before)
    assert all(not block.attention._forward_pre_hooks for block in tiny_model.blocks)
