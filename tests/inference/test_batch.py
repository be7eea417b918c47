"""Texts read as one batch say what each says alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simplellm.config.model import ModelConfig
from simplellm.config.sampling import SamplingParams
from simplellm.data.tokenizer import Tokenizer
from simplellm.inference.batch import BatchDecoder, ReplyBatch
from simplellm.inference.reply import Reply
from simplellm.inference.sampler import Sampler
from simplellm.model.transformer import SimpleLLM

BYTES = Tokenizer({bytes([i]): i for i in range(256)})
WARM = SamplingParams(temperature=1.5, top_k=0, top_p=1, seed=5, max_new_tokens=20)
SETTINGS = [
    WARM,
    replace(WARM, temperature=0.3, top_k=5),
    replace(WARM, temperature=0),
    replace(WARM, seed=9, max_new_tokens=7, min_p=0.01, top_p=0.9),
    replace(WARM, max_new_tokens=1),
    replace(WARM, max_new_tokens=40, stop=("e", "\x00", "a")),
    replace(WARM, stop=tuple("0123"), repetition_penalty=1.5),
]


def byte_model(architecture: str, block_size: int, seed: int = 1) -> SimpleLLM:
    n_kv_head = 2 if architecture == "modern" else None
    config = ModelConfig(architecture=architecture, n_layer=2, n_head=4, n_kv_head=n_kv_head, n_embd=32,
                         block_size=block_size, vocab_size=257)  # fmt: skip
    model, generator = SimpleLLM(config).eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0.0 if weight.dim() == 2 else 1.0, 0.15, generator=generator)
    return model


@pytest.fixture(params=["modern", "gpt2"])
def sampler(request: pytest.FixtureRequest) -> Sampler:
    return Sampler(byte_model(request.param, 16), BYTES)


def outcome(reply: Reply) -> tuple:
    return reply.prompt_ids, reply.new_ids, reply.text, reply.stop_reason, reply.seed


@pytest.mark.parametrize(
    "prompt", [[65], list(b"a judge"), list(b"a prompt that is longer than the context")]
)
@pytest.mark.parametrize("order", [SETTINGS, SETTINGS[::-1], SETTINGS[:1], [WARM] * 3])
def test_a_batch_of_replies_is_the_same_as_one_after_another(sampler, prompt, order) -> None:
    batch = ReplyBatch(sampler, prompt, order)
    seen = [""] * len(order)
    for number, piece in batch:
        seen[number] += piece.text
    alone = [sampler.stream(prompt, params) for params in order]
    for reply in alone:
        list(reply)
    assert [outcome(reply) for reply in batch.replies] == [outcome(reply) for reply in alone]
    assert seen == [reply.text for reply in alone]


def test_the_thoughts_of_a_batch_are_those_of_each_reply(sampler) -> None:
    pieces: list[list] = [[], [], []]
    for number, piece in ReplyBatch(sampler, [65, 66], SETTINGS[:3]):
        pieces[number].append(piece)
    for params, found in zip(SETTINGS, pieces, strict=False):
        alone = list(sampler.stream([65, 66], params))
        assert [(piece.token, piece.text, piece.rank) for piece in found] == [
            (p.token, p.text, p.rank) for p in alone
        ]
        numbers = [
            [(piece.probability, piece.entropy) for piece in ones] for ones in (found, alone)
        ]
        np.testing.assert_allclose(*numbers, atol=1e-5)


def test_the_end_of_a_text_in_one_reply_does_not_end_the_others(sampler, monkeypatch) -> None:
    ending = np.full(257, -20, np.float32)
    ending[256] = 20
    read = BatchDecoder.next_logits

    def end_the_second(
        texts: BatchDecoder, rows: list, parents: list | None = None
    ) -> torch.Tensor:
        logits = read(texts, rows, parents)
        if len(rows) == 3 and len(rows[0]) == 4:
            logits = logits.clone()
            logits[1] = torch.from_numpy(ending)
        return logits

    monkeypatch.setattr(BatchDecoder, "next_logits", end_the_second)
    batch = ReplyBatch(sampler, [65], [replace(WARM, seed=seed) for seed in (1, 2, 3)])
    list(batch)
    assert [reply.stop_reason for reply in batch.replies] == ["length", "end_of_text", "length"]
    assert [len(reply.new_ids) for reply in batch.replies] == [20, 4, 20]
    monkeypatch.undo()
    for seed, reply in ((1, batch.replies[0]), (3, batch.replies[2])):
        alone = sampler.stream([65], replace(WARM, seed=seed))
        list(alone)
        assert outcome(alone) == outcome(reply)


def test_a_batch_leaves_the_samplers_own_cache_alone(sampler) -> None:
    before = np.array(sampler.next_logits([65, 66, 67]))
    list(ReplyBatch(sampler, [70, 71], SETTINGS[:3]))
    np.testing.assert_allclose(sampler.next_logits([65, 66, 67]), before, atol=1e-5)


def test_a_batch_left_in_the_middle_keeps_what_was_said(sampler) -> None:
    batch = ReplyBatch(sampler, [65], [WARM, replace(WARM, seed=6)])
    for _ in zip(range(6), batch, strict=False):
        pass
    assert [reply.stop_reason for reply in batch.replies] == ["interrupted"] * 2
    assert [len(reply.new_ids) for reply in batch.replies] == [3, 3]


@settings(deadline=None, max_examples=20)
@given(st.data(), st.sampled_from(["modern", "gpt2"]), st.integers(2, 9))
def test_rows_may_go_on_from_any_row_and_the_context_may_overflow(
    data, architecture: str, block_size: int
) -> None:
    sampler = Sampler(byte_model(architecture, block_size), BYTES)
    rows = [data.draw(st.lists(st.integers(0, 256), min_size=1, max_size=12))] * data.draw(
        st.integers(1, 3)
    )
    texts, parents = BatchDecoder(sampler, 100), None
    for _ in range(data.draw(st.integers(1, 12))):
        logits = texts.next_logits(rows, parents)
        for row, found in zip(rows, logits, strict=True):
            np.testing.assert_allclose(
                found.numpy(), Sampler(sampler.model, BYTES).next_logits(row), atol=1e-4, rtol=1e-4
            )
        parents = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=4))
        rows = [[*rows[parent], data.draw(st.integers(0, 256))] for parent in parents]
