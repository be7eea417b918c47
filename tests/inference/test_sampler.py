"""Samplers: the KV cache does not change logits and saves computation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from byte_models import BYTES, PLAIN, byte_model, uncached_logits
from conftest import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from test_decoder import without_compiler

from simplellm.config.sampling import SamplingParams
from simplellm.inference.batch import ReplyBatch
from simplellm.inference.quantize import quantize
from simplellm.inference.sampler import Sampler


@pytest.mark.parametrize("architecture", ["modern", "gpt2"])
def test_the_models_depend_on_earlier_tokens(architecture):
    model, ids = byte_model(architecture), list(b"a judge")
    assert float((uncached_logits(model, ids) - uncached_logits(model, ids[1:])).abs().max()) > 0.1


@pytest.mark.parametrize("block_size", [2, 3, 7, 16])
@pytest.mark.parametrize("architecture", ["modern", "gpt2"])
def test_cached_logits_equal_uncached_ones_also_beyond_the_context(architecture, block_size):
    model = byte_model(architecture, block_size)
    sampler, ids = Sampler(model, BYTES), torch.randint(257, (3 * block_size + 5,)).tolist()
    for n in range(1, len(ids) + 1):
        np.testing.assert_allclose(
            sampler.next_logits(ids[:n]), uncached_logits(model, ids[:n]), atol=1e-4, rtol=1e-4
        )


@settings(deadline=None, max_examples=examples(25))
@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=20), min_size=1, max_size=5),
    st.sampled_from(["modern", "gpt2"]),
)
def test_earlier_prompts_do_not_change_logits(prompts, architecture):
    model = byte_model(architecture, 8)
    used = Sampler(model, BYTES)
    for ids in prompts:
        np.testing.assert_allclose(
            used.next_logits(ids), uncached_logits(model, ids), atol=1e-4, rtol=1e-4
        )


def pass_lengths(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Records the number of tokens of each forward pass from now on."""
    lengths, read = [], sampler._read
    monkeypatch.setattr(sampler, "_read", lambda new: (lengths.append(len(new)), read(new))[1])
    return lengths


def test_a_prompt_is_one_forward_pass_and_each_new_token_another(monkeypatch):
    sampler = Sampler(byte_model(block_size=600), BYTES)
    lengths = pass_lengths(sampler, monkeypatch)
    list(sampler.stream([65] * 512, replace(PLAIN, max_new_tokens=4, seed=1)))
    assert lengths == [512, 1, 1, 1]


def test_only_the_new_tokens_of_a_second_prompt_are_computed(monkeypatch):
    sampler = Sampler(byte_model(block_size=600), BYTES)
    reply = sampler.stream([65] * 100, replace(PLAIN, max_new_tokens=4, seed=1))
    list(reply)
    lengths = pass_lengths(sampler, monkeypatch)
    sampler.next_logits([*reply.prompt_ids, *reply.new_ids, 66, 67])
    assert lengths == [3]  # including the last sampled token


@pytest.fixture(params=["float32", "int8", "int8 without a compiler"])
def model_of_a_kind(request, trained_model, monkeypatch):
    """The trained model with one kind of weights, and its tokenizer."""
    model, tokenizer = trained_model
    if request.param == "int8 without a compiler":
        without_compiler(monkeypatch)
    return (model if request.param == "float32" else quantize(model)), tokenizer


@pytest.mark.parametrize("n_seeds", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_a_repeated_prompt_gets_the_reply_of_a_new_one(model_of_a_kind, n_seeds):
    model, tokenizer = model_of_a_kind
    repeated = Sampler(model, tokenizer)
    prompt = tokenizer.encode("The judge looked at the picture")
    for seed in range(n_seeds):
        params = SamplingParams(seed=seed, max_new_tokens=12)
        replies = []
        for sampler in (repeated, Sampler(model, tokenizer)):
            reply = sampler.stream(prompt, params)
            for _ in reply:
                pass
            replies.append(reply.new_ids)
        assert replies[0] == replies[1]


def new_ids(sampler: Sampler, ids: list[int], seed: int) -> list[int]:
    reply = sampler.stream(ids, SamplingParams(seed=seed, max_new_tokens=12))
    for _ in reply:
        pass
    return reply.new_ids


@pytest.mark.parametrize("n_seeds", [3, pytest.param(12, marks=pytest.mark.slow)])
def test_what_the_cache_holds_changes_no_reply(model_of_a_kind, n_seeds):
    """Earlier replies in the context, regenerated replies, edited, shorter and long prompts."""
    model, tokenizer = model_of_a_kind
    prompt = tokenizer.encode("The judge looked at")
    for seed in range(n_seeds):
        used = Sampler(model, tokenizer)
        reply = new_ids(used, prompt, seed)
        for ids in (
            [*prompt, *reply, *tokenizer.encode(" He was")],
            [*prompt, *reply, *tokenizer.encode(" He was")],
            [*prompt[:3], *tokenizer.encode(" no money")],
            prompt[:4],
            prompt[:1],
            prompt[:4],
            (prompt * 20)[: model.config.block_size + 5],
        ):
            assert new_ids(used, ids, seed) == new_ids(Sampler(model, tokenizer), ids, seed)


@pytest.mark.parametrize("n_seeds", [8, pytest.param(25, marks=pytest.mark.slow)])
def test_a_batch_gives_the_replies_of_one_after_another(model_of_a_kind, n_seeds):
    model, tokenizer = model_of_a_kind
    sampler = Sampler(model, tokenizer)
    prompt = tokenizer.encode("The judge looked at")
    settings = [SamplingParams(seed=seed, max_new_tokens=12) for seed in range(n_seeds)]
    batch = ReplyBatch(sampler, prompt, settings)
    for _ in batch:
        pass
    assert [reply.new_ids for reply in batch.replies] == [
        new_ids(sampler, prompt, seed) for seed in range(n_seeds)
    ]
