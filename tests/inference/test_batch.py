"""Batched decoding gives the same replies and logits as decoding one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from byte_models import BYTES, grouped_byte_model
from hypothesis import given, settings
from hypothesis import strategies as st

from simplellm.config.sampling import SamplingParams
from simplellm.inference.batch import BatchDecoder, ReplyBatch
from simplellm.inference.reply import Reply
from simplellm.inference.sampler import Sampler

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


@pytest.fixture(params=["modern", "gpt2"])
def sampler(request: pytest.FixtureRequest) -> Sampler:
    return Sampler(grouped_byte_model(request.param, 16), BYTES)


def outcome(reply: Reply) -> tuple:
    return reply.prompt_ids, reply.new_ids, reply.text, reply.stop_reason, reply.seed


@pytest.mark.parametrize(
    "prompt", [[65], list(b"a judge"), list(b"a prompt that is longer than the context")]
)
@pytest.mark.parametrize("order", [SETTINGS, SETTINGS[::-1], SETTINGS[:1], [WARM] * 3])
def test_batched_replies_equal_those_one_after_another(sampler, prompt, order) -> None:
    batch = ReplyBatch(sampler, prompt, order)
    seen = [""] * len(order)
    for number, piece in batch:
        seen[number] += piece.text
    alone = [sampler.stream(prompt, params) for params in order]
    for reply in alone:
        list(reply)
    assert [outcome(reply) for reply in batch.replies] == [outcome(reply) for reply in alone]
    assert seen == [reply.text for reply in alone]


def test_token_statistics_in_a_batch_equal_those_of_each_reply(sampler) -> None:
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


def test_the_end_of_one_reply_does_not_end_the_others(sampler, monkeypatch) -> None:
    ending = np.full(257, -20, np.float32)
    ending[256] = 20
    read = BatchDecoder.next_logits

    def end_the_second(
        decoder: BatchDecoder, rows: list, parents: list | None = None
    ) -> torch.Tensor:
        logits = read(decoder, rows, parents)
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


def test_a_batch_does_not_change_the_cache_of_the_sampler(sampler) -> None:
    before = np.array(sampler.next_logits([65, 66, 67]))
    list(ReplyBatch(sampler, [70, 71], SETTINGS[:3]))
    np.testing.assert_allclose(sampler.next_logits([65, 66, 67]), before, atol=1e-5)


def test_an_interrupted_batch_keeps_its_tokens(sampler) -> None:
    batch = ReplyBatch(sampler, [65], [WARM, replace(WARM, seed=6)])
    for _ in zip(range(6), batch, strict=False):
        pass
    assert [reply.stop_reason for reply in batch.replies] == ["interrupted"] * 2
    assert [len(reply.new_ids) for reply in batch.replies] == [3, 3]


@settings(deadline=None, max_examples=20)
@given(st.data(), st.sampled_from(["modern", "gpt2"]), st.integers(2, 9))
def test_sequences_may_continue_from_any_parent_and_exceed_the_context(
    data, architecture: str, block_size: int
) -> None:
    sampler = Sampler(grouped_byte_model(architecture, block_size), BYTES)
    rows = [data.draw(st.lists(st.integers(0, 256), min_size=1, max_size=12))] * data.draw(
        st.integers(1, 3)
    )
    decoder, parents = BatchDecoder(sampler, 100), None
    for _ in range(data.draw(st.integers(1, 12))):
        logits = decoder.next_logits(rows, parents)
        for row, found in zip(rows, logits, strict=True):
            np.testing.assert_allclose(
                found.numpy(), Sampler(sampler.model, BYTES).next_logits(row), atol=1e-4, rtol=1e-4
            )
        parents = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=4))
        rows = [[*rows[parent], data.draw(st.integers(0, 256))] for parent in parents]
