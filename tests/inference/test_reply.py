"""Replies: seeds, streamed text, stop reasons and token statistics."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from byte_models import BYTES, GREEDY, PLAIN, byte_model, uncached_logits
from conftest import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from simplellm.checkpoint.hugging_face import to_hub_config, to_hub_state
from simplellm.inference.filters import PENALTY_WINDOW, distribution
from simplellm.inference.reply import Reply
from simplellm.inference.sampler import Sampler


@pytest.fixture(params=["modern", "gpt2"])
def sampler(request: pytest.FixtureRequest) -> Sampler:
    return Sampler(byte_model(request.param), BYTES)


def test_the_seed_determines_the_reply(sampler):
    def new_ids(seed: int) -> list[int]:
        reply = sampler.stream([65, 66], replace(PLAIN, seed=seed, temperature=2))
        list(reply)
        return reply.new_ids

    assert new_ids(1) == new_ids(1) != new_ids(2)


def test_without_a_seed_every_reply_gets_a_random_one(sampler):
    assert sampler.stream([1], PLAIN).seed != sampler.stream([1], PLAIN).seed


@settings(deadline=None, max_examples=examples(100))
@given(st.one_of(st.binary(max_size=40), st.text("한글각힣é🇰🇷👩‍👧a", max_size=15).map(str.encode)))
def test_streamed_text_is_the_decoded_text_and_at_most_three_bytes_behind(data):
    shown, pieces = b"", list(BYTES.decode_stream(data))
    for n, piece in enumerate(pieces[:-1], 1):
        shown += piece.encode()
        if (
            data[:n].decode("utf-8", "ignore").encode() == data[:n]
        ):  # valid so far: bytes can be counted
            assert n - len(shown) <= 3
    assert "".join(pieces) == BYTES.decode(data) == data.decode("utf-8", "replace")


@pytest.mark.parametrize("seed", range(5))
def test_the_text_of_a_reply_is_its_decoded_ids(sampler, seed):
    reply = sampler.stream(
        list("힣각🙂".encode()), replace(PLAIN, temperature=3, seed=seed, max_new_tokens=60)
    )
    text = "".join(piece.text for piece in reply)
    whole = codecs.getincrementaldecoder("utf-8")("replace")
    assert text == whole.decode(b"".join(map(BYTES.token_bytes, reply.new_ids)))


class Dictated:
    """Logits that make each next token the given byte."""

    tokenizer = BYTES
    end_ids = frozenset({BYTES.end_of_text})

    def __init__(self, data: bytes) -> None:
        self.data = iter(data)

    def next_logits(self, ids: Sequence[int]) -> np.ndarray:
        logits = np.zeros(257, np.float32)
        logits[next(self.data)] = 50
        return logits


@pytest.mark.parametrize("n", range(1, 8))
def test_a_reply_never_ends_within_a_character(n: int) -> None:
    reply = Reply(Dictated("가a나".encode()), [65], replace(GREEDY, max_new_tokens=n))
    assert "".join(piece.text for piece in reply) == reply.text
    assert reply.text == "가a나".encode()[:n].decode(errors="ignore")
    assert len(reply.new_ids) == n and reply.stop_reason == "length"


def test_a_stop_sequence_ends_the_reply(sampler):
    whole = sampler.stream([65], replace(PLAIN, seed=3, max_new_tokens=40))
    text = "".join(piece.text for piece in whole)
    stop = text[10:13]
    reply = sampler.stream(
        [65], replace(PLAIN, seed=3, max_new_tokens=40, stop=("not in the reply", stop))
    )
    assert "".join(piece.text for piece in reply) == text[: text.find(stop)]
    assert reply.stop_reason == "stop" and len(reply.new_ids) < 40


@pytest.mark.parametrize("n", [1, 2, 50])
def test_a_reply_has_at_most_max_new_tokens(sampler, n):
    reply = sampler.stream([65], replace(GREEDY, max_new_tokens=n))
    assert len(list(reply)) >= len(reply.new_ids) == n and reply.stop_reason == "length"


def test_end_of_text_ends_a_reply_and_has_no_text(sampler, monkeypatch):
    certain = np.full(257, -20, np.float32)
    certain[256] = 20
    monkeypatch.setattr(
        sampler, "next_logits", lambda ids: certain if len(ids) > 3 else np.roll(certain, 66)
    )
    reply = sampler.stream([65], replace(GREEDY, max_new_tokens=9))
    assert "".join(piece.text for piece in reply) == "AAA" and reply.stop_reason == "end_of_text"


def test_token_statistics_equal_those_of_a_softmax(sampler):
    reply = sampler.stream([65], replace(PLAIN, temperature=2, top_k=9, seed=5, max_new_tokens=20))
    for n, piece in enumerate(piece for piece in reply if piece.token is not None):
        probabilities = uncached_logits(sampler.model, [65, *reply.new_ids[:n]]).double().softmax(0)
        own = probabilities[piece.token]
        assert piece.probability == pytest.approx(float(own), abs=1e-5)
        assert piece.rank == 1 + int((probabilities > own).sum())
        assert piece.entropy == pytest.approx(
            float(torch.special.entr(probabilities).sum()), abs=1e-4
        )


def test_the_repetition_penalty_applies_to_its_window_only(sampler):
    ids = [65, *range(100, 100 + PENALTY_WINDOW)]
    params = replace(GREEDY, repetition_penalty=10, max_new_tokens=1)
    logits = sampler.next_logits(ids)
    expected = int(distribution(logits, ids[-PENALTY_WINDOW:], params)[0][0])
    assert next(iter(sampler.stream(ids, params))).token == expected


@pytest.mark.usefixtures("transformers")
@pytest.mark.parametrize("architecture", ["modern", "gpt2"])
def test_greedy_replies_equal_those_of_transformers(architecture):
    from transformers import AutoConfig, AutoModelForCausalLM

    model = byte_model(architecture, 64)
    data = to_hub_config(model.config, end_of_text=256)
    hf_model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(data.pop("model_type"), **data)
    ).eval()
    hf_model.load_state_dict(to_hub_state(model.state_dict(), model.config), strict=False)
    hf_model.tie_weights()
    prompt = list(b"The judge")
    expected = hf_model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=32, do_sample=False, eos_token_id=None, pad_token_id=0,
    )[0, len(prompt) :].tolist()  # fmt: skip
    reply = Sampler(model, BYTES).stream(prompt, replace(GREEDY, max_new_tokens=32))
    list(reply)
    assert reply.new_ids == expected


def test_two_interleaved_replies_are_independent(sampler):
    params = replace(PLAIN, temperature=2, max_new_tokens=12, seed=4)
    alone = [sampler.stream([first], params) for first in (65, 66)]
    for reply in alone:
        list(reply)
    together = [sampler.stream([first], params) for first in (65, 66)]
    for _ in zip(*together, strict=False):
        pass
    assert [reply.new_ids for reply in together] == [reply.new_ids for reply in alone]
