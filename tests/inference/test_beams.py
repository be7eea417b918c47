"""Beam search finds the same text as transformers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from byte_models import grouped_byte_model
from hypothesis import given, settings
from hypothesis import strategies as st

from simplellm.checkpoint.hugging_face import to_hub_config, to_hub_state
from simplellm.config.sampling import SamplingParams
from simplellm.data.tokenizer import Tokenizer
from simplellm.errors import SamplingError, SettingError
from simplellm.inference.beams import Beam, BeamReply, beam_search, reply_to
from simplellm.inference.reply import Reply
from simplellm.inference.sampler import Sampler
from simplellm.model.transformer import SimpleLLM

PROMPT = list(b"The judge")
FOUR = SamplingParams(num_beams=4, max_new_tokens=12)


def byte_tokenizer(end_of_text: int = 256) -> Tokenizer:
    tokenizer = Tokenizer({bytes([i]): i for i in range(256)})
    tokenizer.end_of_text = end_of_text
    return tokenizer


def as_hf_model(model: SimpleLLM) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    data = to_hub_config(model.config, end_of_text=256)
    hf_model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(data.pop("model_type"), **data)
    ).eval()
    hf_model.load_state_dict(to_hub_state(model.state_dict(), model.config), strict=False)
    hf_model.tie_weights()
    return hf_model


def hf_search(
    hf_model: Any, prompt: list[int], n: int, end_of_text: int, length: int
) -> tuple[list[int], float]:
    found = hf_model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        num_beams=n,
        do_sample=False,
        max_new_tokens=length,
        length_penalty=1.0,
        early_stopping=False,
        eos_token_id=end_of_text,
        pad_token_id=end_of_text,
        return_dict_in_generate=True,
        output_scores=True,
    )
    ids = found.sequences[0, len(prompt) :].tolist()
    return ids[: ids.index(end_of_text) + 1] if end_of_text in ids else ids, float(
        found.sequences_scores[0]
    )


@pytest.mark.usefixtures("transformers")
@pytest.mark.parametrize("n_beams", [2, 3, 8, 64])
@pytest.mark.parametrize("architecture", ["modern", "gpt2"])
def test_the_best_beam_equals_that_of_transformers(architecture: str, n_beams: int) -> None:
    model = grouped_byte_model(architecture)
    hf_model, sampler = as_hf_model(model), Sampler(model, byte_tokenizer())
    for length in (1, 2, 20):
        best = beam_search(sampler, PROMPT, replace(FOUR, num_beams=n_beams, max_new_tokens=length))
        ids, score = hf_search(hf_model, PROMPT, n_beams, 256, length)
        assert best.ids == ids and best.score == pytest.approx(score, abs=1e-4)


@pytest.mark.usefixtures("transformers")
@pytest.mark.parametrize("n_ends", [4, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize("architecture", ["modern", "gpt2"])
def test_beams_that_end_equal_those_of_transformers(architecture: str, n_ends: int) -> None:
    """Likely tokens take the role of END_OF_TEXT, so that beams end early, late and never."""
    ends = set()
    for seed in range(2):
        model = grouped_byte_model(architecture, seed=seed, scale=0.4)
        hf_model, sampler = as_hf_model(model), Sampler(model, byte_tokenizer())
        best = beam_search(sampler, PROMPT, FOUR).ids
        rows = [np.array(sampler.next_logits([*PROMPT, *best[:n]])) for n in range(len(best))]
        likely = sorted({token for row in rows for token in row.argsort()[-3:].tolist()})
        for end_of_text in likely[:n_ends]:
            for n_beams in (2, 5) if n_ends < 8 else (2, 3, 5):
                sampler = Sampler(model, byte_tokenizer(end_of_text))
                best = beam_search(sampler, PROMPT, replace(FOUR, num_beams=n_beams))
                ids, score = hf_search(hf_model, PROMPT, n_beams, end_of_text, 12)
                assert best.ids == ids and best.score == pytest.approx(score, abs=1e-4)
                ends.add(len(ids) if ids[-1] == end_of_text else None)
    assert None in ends and len(ends) >= 4, "the beams end at different lengths"


def log_probability(sampler: Sampler, prompt: list[int], ids: list[int]) -> float:
    logits = [np.array(sampler.next_logits([*prompt, *ids[:n]])) for n in range(len(ids))]
    return sum(
        float(torch.as_tensor(row).double().log_softmax(0)[token])
        for row, token in zip(logits, ids, strict=True)
    )


@settings(deadline=None, max_examples=15)
@given(
    st.lists(st.integers(0, 255), min_size=1, max_size=20),
    st.integers(2, 6),
    st.sampled_from([4, 9, 64]),
    st.sampled_from(["modern", "gpt2"]),
)
def test_the_score_is_the_log_probability_and_at_least_that_of_greedy(
    prompt, n_beams, block_size, architecture
) -> None:
    sampler = Sampler(grouped_byte_model(architecture, block_size=block_size), byte_tokenizer())
    params = replace(
        FOUR, num_beams=n_beams, max_new_tokens=2
    )  # with 2 steps the best beam cannot be pruned
    best = beam_search(sampler, prompt, params)
    assert best.log_probability == pytest.approx(
        log_probability(sampler, prompt, best.ids), abs=1e-3
    )
    greedy = sampler.stream(prompt, replace(params, temperature=0))
    list(greedy)
    assert (
        best.score >= log_probability(sampler, prompt, greedy.new_ids) / len(greedy.new_ids) - 1e-4
    )


@pytest.mark.parametrize("architecture", ["modern", "gpt2"])
def test_beams_may_exceed_the_context(architecture: str) -> None:
    sampler = Sampler(grouped_byte_model(architecture, block_size=8), byte_tokenizer())
    best = beam_search(sampler, PROMPT, replace(FOUR, max_new_tokens=25))
    assert len(best.ids) == 25
    assert best.log_probability == pytest.approx(
        log_probability(sampler, PROMPT, best.ids), abs=1e-3
    )


def test_a_likelier_text_than_the_greedy_one_is_found(monkeypatch) -> None:
    """Greedy: 0.6, then 0.1. Best: 0.4, then 1."""
    sampler = Sampler(grouped_byte_model("gpt2"), byte_tokenizer())

    def next_logits(self: Any, texts: list[list[int]], parents: Any = None) -> torch.Tensor:
        rows = torch.full((len(texts), 257), -30.0)
        for row, text in zip(rows, texts, strict=True):
            if text[-1] == 65:
                row[66], row[67] = math.log(0.6), math.log(0.4)
            elif text[-1] == 66:
                row[70:80] = math.log(0.1)
            else:
                row[68] = 0.0
        return rows

    monkeypatch.setattr("simplellm.inference.batch.BatchDecoder.next_logits", next_logits)
    best = beam_search(sampler, [65], replace(FOUR, num_beams=2, max_new_tokens=2))
    assert best.ids == [67, 68] and best.log_probability == pytest.approx(math.log(0.4))
    assert best.score == pytest.approx(math.log(0.4) / 2)


# ---------------------------------------------------------------- replies


@pytest.fixture(params=["modern", "gpt2"])
def sampler(request: pytest.FixtureRequest) -> Sampler:
    return Sampler(grouped_byte_model(request.param), byte_tokenizer())


def test_one_beam_is_sampled_and_several_are_searched(sampler) -> None:
    assert type(reply_to(sampler, PROMPT, SamplingParams())) is Reply
    assert type(reply_to(sampler, PROMPT, FOUR)) is BeamReply


def test_a_reply_is_the_best_beam_with_token_statistics(sampler) -> None:
    reply = reply_to(sampler, PROMPT, FOUR)
    pieces = [piece for piece in reply if piece.token is not None]
    assert (
        reply.new_ids == beam_search(sampler, PROMPT, FOUR).ids == [piece.token for piece in pieces]
    )
    assert reply.text == sampler.tokenizer.decode(reply.new_ids) and reply.stop_reason == "length"
    assert reply.seconds > 0 and reply.tokens_per_second > 0 and reply.prompt_ids == PROMPT
    for n, piece in enumerate(pieces):
        with torch.no_grad():
            probabilities = (
                sampler.model(torch.tensor([PROMPT + reply.new_ids[:n]]))[0, -1].double().softmax(0)
            )
        assert piece.probability == pytest.approx(float(probabilities[piece.token]), abs=1e-5)
        assert piece.rank == 1 + int((probabilities > probabilities[piece.token]).sum())
        assert piece.entropy == pytest.approx(
            float(torch.special.entr(probabilities).sum()), abs=1e-4
        )


@pytest.mark.parametrize(
    "change", [{"temperature": 5.0}, {"top_k": 1}, {"seed": 4}, {"min_p": 0.9}, {"top_p": 0.01}]
)
def test_sampling_settings_have_no_effect(sampler, change: dict) -> None:
    replies = [reply_to(sampler, PROMPT, params) for params in (FOUR, replace(FOUR, **change))]
    first, second = (
        [(piece.token, piece.text, piece.rank) for piece in reply] for reply in replies
    )
    assert first == second and len(first) >= 12


def test_a_stop_sequence_ends_the_reply(sampler) -> None:
    whole = reply_to(sampler, PROMPT, FOUR)
    list(whole)
    stop = whole.text[3:5]
    reply = reply_to(sampler, PROMPT, replace(FOUR, stop=(stop,)))
    list(reply)
    assert reply.text == whole.text[: whole.text.index(stop)] and reply.stop_reason == "stop"


def test_end_of_text_is_the_stop_reason_and_has_no_text(sampler) -> None:
    end = beam_search(sampler, PROMPT, FOUR).ids[3]
    reply = reply_to(
        Sampler(sampler.model, byte_tokenizer(end)), PROMPT, replace(FOUR, num_beams=2)
    )
    pieces = [piece for piece in reply if piece.token is not None]
    assert (reply.stop_reason == "end_of_text") == (reply.new_ids[-1] == end)
    assert len(pieces) == len(reply.new_ids) - (reply.stop_reason == "end_of_text")


def test_a_search_can_be_interrupted_at_every_step(sampler) -> None:
    reply = reply_to(sampler, PROMPT, FOUR)
    for number, piece in enumerate(reply):
        assert piece.text == "" and piece.token is None
        if number == 5:
            break
    assert reply.text == "" and reply.new_ids == [] and reply.stop_reason == "interrupted"


def test_non_finite_logits_give_a_sampling_error(sampler) -> None:
    with torch.no_grad():
        sampler.model.final_norm.weight[0] = float("nan")
    with pytest.raises(SamplingError, match="nan"):
        list(reply_to(sampler, PROMPT, FOUR))


@pytest.mark.parametrize("number", [0, 65, -1, 1.5])
def test_beams_are_1_to_64(number) -> None:
    with pytest.raises(SettingError, match="num_beams"):
        SamplingParams(num_beams=number)


def test_the_score_is_the_mean_per_token() -> None:
    assert Beam([1, 2, 3, 4], -2.0).score == -0.5
