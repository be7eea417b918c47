"""What is drawn, and how it streams: the filters are those of transformers, and the cache changes nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from simplellm.checkpoint.hugging_face import to_hub_config, to_hub_state
from simplellm.config.model import ModelConfig
from simplellm.config.sampling import SamplingParams
from simplellm.data.tokenizer import Tokenizer
from simplellm.errors import SamplingError
from simplellm.inference.filters import PENALTY_WINDOW, distribution, draw
from simplellm.inference.sampler import Sampler
from simplellm.inference.stop import StopFilter
from simplellm.model.transformer import SimpleLLM

PLAIN = SamplingParams(temperature=1, top_k=0, top_p=1, min_p=0, repetition_penalty=1)
GREEDY = replace(PLAIN, temperature=0)
BYTES = Tokenizer({bytes([i]): i for i in range(256)})

# Among ties transformers keeps whom its sort puts last: beyond 16 values that sort is not stable, and the choice is chance.
logits_with_ties = st.lists(
    st.sampled_from([-9.0, -2.0, -0.5, 0.0, 0.25, 1.0, 2.0, 7.5]), min_size=1, max_size=16
)
distinct_logits = st.lists(
    st.integers(-3000, 3000).map(lambda n: n / 256), min_size=1, max_size=40, unique=True
)
wild_logits = st.lists(
    st.one_of(st.floats(width=32), st.sampled_from([0.0, 1.0, -math.inf, math.inf, math.nan, 3.4e38, -3.4e38])),
    min_size=1, max_size=20,
)  # fmt: skip
any_params = st.builds(
    SamplingParams,
    temperature=st.one_of(st.sampled_from([0, 1e-9, 1e-5, 1]), st.floats(0, 5)),
    top_k=st.integers(0, 50),
    top_p=st.floats(1e-9, 1),
    min_p=st.floats(0, 0.999),
    repetition_penalty=st.one_of(st.just(1.0), st.floats(1e-3, 10)),
)


def byte_model(architecture: str = "modern", block_size: int = 32, seed: int = 1) -> SimpleLLM:
    """Random weights, large enough that no two tokens are about as likely."""
    config = ModelConfig(
        architecture=architecture,
        n_layer=2,
        n_head=2,
        n_embd=32,
        block_size=block_size,
        vocab_size=257,
    )
    model, generator = SimpleLLM(config).eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0.0 if weight.dim() == 2 else 1.0, 0.15, generator=generator)
    return model


@pytest.fixture(params=["modern", "gpt2"])
def sampler(request: pytest.FixtureRequest) -> Sampler:
    return Sampler(byte_model(request.param), BYTES)


def their_scores(logits: torch.Tensor, recent: list[int], params: SamplingParams) -> torch.Tensor:
    """The scores (V,) after the warpers of transformers, in the order of the contract."""
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


@settings(deadline=None, max_examples=300)
@given(
    st.one_of(distinct_logits, logits_with_ties), st.sampled_from([0.1, 0.5, 0.8, 1.0, 2.0, 5.0]), st.integers(0, 45),
    st.sampled_from([0.05, 0.3, 0.5, 0.75, 0.9, 0.95, 1.0]), st.sampled_from([0, 0.01, 0.1, 0.5, 0.9]),
    st.sampled_from([0.5, 1.0, 1.3, 5.0]), st.lists(st.integers(0, 39), max_size=8),
)  # fmt: skip
def test_the_kept_set_is_that_of_transformers(
    values, temperature, top_k, top_p, min_p, penalty, recent
):
    params = SamplingParams(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=penalty
    )
    logits, recent = np.float32(values), [token for token in recent if token < len(values)]
    theirs = their_scores(torch.from_numpy(logits), recent, params)
    tokens, probabilities = distribution(logits, recent, params)
    assert set(tokens.tolist()) == set(theirs.isfinite().nonzero().flatten().tolist())
    np.testing.assert_allclose(
        probabilities, theirs.softmax(0).numpy()[tokens], atol=1e-5, rtol=1e-3
    )


@settings(deadline=None, max_examples=300)
@example([-3.4e38, -3.4e38], SamplingParams(repetition_penalty=10, top_k=0, top_p=1), [0, 1], 1)
@example([1.0, 1.0, 1.0], SamplingParams(top_k=1), [], 1)
@given(wild_logits, any_params, st.lists(st.integers(0, 19), max_size=8), st.integers(0, 2**63 - 1))
def test_any_logits_and_settings_give_a_kept_token_or_a_typed_error(values, params, recent, seed):
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
def test_temperature_zero_is_the_most_likely(values):
    tokens, _ = distribution(np.float32(values), [], GREEDY)
    assert tokens.tolist() == [int(np.float32(values).argmax())]


def test_nothing_with_probability_zero_is_drawn():
    generator = np.random.default_rng(1)
    tokens, probabilities = np.arange(4), np.float32([0.0, 0.5, 0.5, 0.0])
    assert {draw(tokens, probabilities, generator) for _ in range(500)} == {1, 2}


def test_draws_are_as_frequent_as_their_probabilities():
    expected = np.float32([0.5, 0.3, 0.15, 0.05])
    generator, n = np.random.default_rng(7), 4000
    counts = np.bincount([draw(np.arange(4), expected, generator) for _ in range(n)], minlength=4)
    chi_square = float(((counts - n * expected) ** 2 / (n * expected)).sum())
    assert chi_square < 16.27  # 3 degrees of freedom, 0.1%


def test_the_same_seed_gives_the_same_text_and_another_seed_another(sampler):
    def said(seed: int) -> list[int]:
        reply = sampler.stream([65, 66], replace(PLAIN, seed=seed, temperature=2))
        list(reply)
        return reply.new_ids

    assert said(1) == said(1) != said(2)


def test_without_a_seed_every_reply_has_its_own(sampler):
    assert sampler.stream([1], PLAIN).seed != sampler.stream([1], PLAIN).seed


@settings(deadline=None, max_examples=100)
@given(st.one_of(st.binary(max_size=40), st.text("한글각힣é🇰🇷👩‍👧a", max_size=15).map(str.encode)))
def test_joined_pieces_are_the_text_and_at_most_three_bytes_wait(data):
    shown, pieces = b"", list(BYTES.decode_stream(data))
    for n, piece in enumerate(pieces[:-1], 1):
        shown += piece.encode()
        if (
            data[:n].decode("utf-8", "ignore").encode() == data[:n]
        ):  # nothing undecodable so far: bytes can be counted
            assert n - len(shown) <= 3
    assert "".join(pieces) == BYTES.decode(data) == data.decode("utf-8", "replace")


@pytest.mark.parametrize("seed", range(5))
def test_a_streamed_reply_is_its_ids_decoded(sampler, seed):
    reply = sampler.stream(
        list("힣각🙂".encode()), replace(PLAIN, temperature=3, seed=seed, max_new_tokens=60)
    )
    assert "".join(piece.text for piece in reply) == BYTES.decode(reply.new_ids)


def gated(pieces: list[str], stops: list[str]) -> str:
    gate = StopFilter(stops)
    shown = "".join(gate.push(piece) for piece in pieces if not gate.has_stopped)
    return shown + gate.finish()


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.text("ab<", max_size=4), max_size=8),
    st.lists(st.text("ab<", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_a_stop_text_is_never_shown_however_it_is_cut(pieces, stops):
    shown = gated(pieces, stops)
    assert "".join(pieces).startswith(shown)
    assert not any(stop in shown for stop in stops)
    assert shown == "".join(pieces) or any(
        "".join(pieces).startswith(shown + stop) for stop in stops
    )
    assert shown == gated(list("".join(pieces)), stops)


def test_a_stop_text_ends_the_reply(sampler):
    whole = sampler.stream([65], replace(PLAIN, seed=3, max_new_tokens=40))
    text = "".join(piece.text for piece in whole)
    stop = text[10:13]
    reply = sampler.stream(
        [65], replace(PLAIN, seed=3, max_new_tokens=40, stop=("never said", stop))
    )
    assert "".join(piece.text for piece in reply) == text[: text.find(stop)]
    assert reply.stop_reason == "stop" and len(reply.new_ids) < 40


@pytest.mark.parametrize("n", [1, 2, 50])
def test_a_reply_has_at_most_max_new_tokens(sampler, n):
    reply = sampler.stream([65], replace(GREEDY, max_new_tokens=n))
    assert len(list(reply)) >= len(reply.new_ids) == n and reply.stop_reason == "length"


def test_end_of_text_ends_a_reply_and_is_not_shown(sampler, monkeypatch):
    certain = np.full(257, -20, np.float32)
    certain[256] = 20
    monkeypatch.setattr(
        sampler, "next_logits", lambda ids: certain if len(ids) > 3 else np.roll(certain, 66)
    )
    reply = sampler.stream([65], replace(GREEDY, max_new_tokens=9))
    assert "".join(piece.text for piece in reply) == "AAA" and reply.stop_reason == "end_of_text"


def naive_logits(model: SimpleLLM, ids: list[int]) -> torch.Tensor:
    """What the newest tokens say, without a cache: a full context drops its older half, again and again."""
    context: list[int] = []
    for token in ids:
        if len(context) == model.config.block_size:
            context = context[-(model.config.block_size // 2) :]
        context.append(token)
    with torch.no_grad():
        return model(torch.tensor([context]))[0, -1]


@pytest.mark.parametrize("architecture", ["modern", "gpt2"])
def test_these_models_look_back(architecture):
    model, ids = byte_model(architecture), list(b"a judge")
    assert float((naive_logits(model, ids) - naive_logits(model, ids[1:])).abs().max()) > 0.1


@pytest.mark.parametrize("block_size", [2, 3, 7, 16])
@pytest.mark.parametrize("architecture", ["modern", "gpt2"])
def test_the_cache_changes_nothing_also_when_the_context_overflows(architecture, block_size):
    model = byte_model(architecture, block_size)
    sampler, ids = Sampler(model, BYTES), torch.randint(257, (3 * block_size + 5,)).tolist()
    for n in range(1, len(ids) + 1):
        np.testing.assert_allclose(
            sampler.next_logits(ids[:n]), naive_logits(model, ids[:n]), atol=1e-4, rtol=1e-4
        )


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=20), min_size=1, max_size=5),
    st.sampled_from(["modern", "gpt2"]),
)
def test_what_was_read_before_changes_nothing(prompts, architecture):
    model = byte_model(architecture, 8)
    used = Sampler(model, BYTES)
    for ids in prompts:
        np.testing.assert_allclose(
            used.next_logits(ids), naive_logits(model, ids), atol=1e-4, rtol=1e-4
        )


def test_thoughts_are_those_of_a_plain_softmax(sampler):
    reply = sampler.stream([65], replace(PLAIN, temperature=2, top_k=9, seed=5, max_new_tokens=20))
    for n, piece in enumerate(piece for piece in reply if piece.token is not None):
        probabilities = naive_logits(sampler.model, [65, *reply.new_ids[:n]]).double().softmax(0)
        own = probabilities[piece.token]
        assert piece.probability == pytest.approx(float(own), abs=1e-5)
        assert piece.rank == 1 + int((probabilities > own).sum())
        assert piece.entropy == pytest.approx(
            float(torch.special.entr(probabilities).sum()), abs=1e-4
        )


def test_the_penalty_looks_back_on_its_window_only(sampler):
    ids = [65, *range(100, 100 + PENALTY_WINDOW)]
    params = replace(GREEDY, repetition_penalty=10, max_new_tokens=1)
    logits = sampler.next_logits(ids)
    expected = int(distribution(logits, ids[-PENALTY_WINDOW:], params)[0][0])
    assert next(iter(sampler.stream(ids, params))).token == expected


@pytest.mark.parametrize("architecture", ["modern", "gpt2"])
def test_greedy_text_is_that_of_transformers(architecture):
    from transformers import AutoConfig, AutoModelForCausalLM

    model = byte_model(architecture, 64)
    data = to_hub_config(model.config, end_of_text=256)
    theirs = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(data.pop("model_type"), **data)
    ).eval()
    theirs.load_state_dict(to_hub_state(model.state_dict(), model.config), strict=False)
    theirs.tie_weights()
    prompt = list(b"The judge")
    expected = theirs.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=32, do_sample=False, eos_token_id=None, pad_token_id=0,
    )[0, len(prompt) :].tolist()  # fmt: skip
    reply = Sampler(model, BYTES).stream(prompt, replace(GREEDY, max_new_tokens=32))
    list(reply)
    assert reply.new_ids == expected


def lengths_read(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each pass through the model takes in, from now on."""
    lengths, read = [], sampler._read
    monkeypatch.setattr(sampler, "_read", lambda new: (lengths.append(len(new)), read(new))[1])
    return lengths


def test_a_long_prompt_is_read_in_one_pass_and_each_token_after_it_alone(monkeypatch):
    sampler = Sampler(byte_model(block_size=600), BYTES)
    lengths = lengths_read(sampler, monkeypatch)
    list(sampler.stream([65] * 512, replace(PLAIN, max_new_tokens=4, seed=1)))
    assert lengths == [512, 1, 1, 1]


def test_of_a_second_prompt_only_what_is_new_is_read(monkeypatch):
    sampler = Sampler(byte_model(block_size=600), BYTES)
    reply = sampler.stream([65] * 100, replace(PLAIN, max_new_tokens=4, seed=1))
    list(reply)
    lengths = lengths_read(sampler, monkeypatch)
    sampler.next_logits([*reply.prompt_ids, *reply.new_ids, 66, 67])
    assert lengths == [3]  # the last token drawn was not read yet


def test_two_replies_that_take_turns_do_not_disturb_each_other(sampler):
    params = replace(PLAIN, temperature=2, max_new_tokens=12, seed=4)
    alone = [sampler.stream([first], params) for first in (65, 66)]
    for reply in alone:
        list(reply)
    together = [sampler.stream([first], params) for first in (65, 66)]
    for _ in zip(*together, strict=False):
        pass
    assert [reply.new_ids for reply in together] == [reply.new_ids for reply in alone]
