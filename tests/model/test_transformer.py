"""The model: causal, equal with and without cache, and equal to `transformers`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from conftest import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from simplellm.checkpoint.hugging_face import to_hub_config, to_hub_state
from simplellm.config.model import ModelConfig
from simplellm.model.cache import KVCache
from simplellm.model.transformer import SimpleLLM

if TYPE_CHECKING:
    from transformers import PreTrainedModel

pytestmark = pytest.mark.usefixtures("transformers")
law = settings(
    deadline=None,
    max_examples=examples(25),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
SHAPES = {
    "modern": {"architecture": "modern"},
    "modern-gqa": {"architecture": "modern", "n_kv_head": 2},
    "modern-mqa-inner": {"architecture": "modern", "n_kv_head": 1, "n_inner": 40},
    "gpt2": {"architecture": "gpt2"},
    "gpt2-inner": {"architecture": "gpt2", "n_inner": 40},
    "modern-untied": {"architecture": "modern", "tie_embeddings": False},
    "gpt2-untied": {"architecture": "gpt2", "tie_embeddings": False},
}


def build(shape: str, seed: int = 1) -> SimpleLLM:
    """A model with weights so large that every part of it shows in the logits."""
    config = ModelConfig(
        n_layer=2, n_head=4, n_embd=32, block_size=32, vocab_size=300, **SHAPES[shape]
    )
    model, generator = SimpleLLM(config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1.0 if "norm.weight" in name else 0.0, 0.2, generator=generator)
    return model.eval()


def as_transformers(model: SimpleLLM) -> PreTrainedModel:
    from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

    config = to_hub_config(model.config, end_of_text=0)
    kind, config_kind = (
        (GPT2LMHeadModel, GPT2Config)
        if model.config.architecture == "gpt2"
        else (Qwen3ForCausalLM, Qwen3Config)
    )
    theirs = kind(config_kind(**config)).float().eval()
    wrong = theirs.load_state_dict(to_hub_state(model.state_dict(), model.config), strict=False)
    tied = {"lm_head.weight"} if model.config.tie_embeddings else set()
    assert not wrong.unexpected_keys and set(wrong.missing_keys) <= tied
    theirs.tie_weights()
    return theirs


def random_ids(n: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(300, (n, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_transformers(shape: str) -> None:
    model, ids = build(shape), random_ids(3, 32)
    with torch.no_grad():
        ours, theirs = model(ids), as_transformers(model)(ids).logits
    assert ours.std() > 0.5, "logits of a model whose parts do not show would prove nothing"
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_with_gradients_equal_transformers(shape: str) -> None:
    model, ids = build(shape).train(), random_ids(2, 32)
    torch.testing.assert_close(model(ids), as_transformers(model)(ids).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_equal_transformers(shape: str) -> None:
    model, block = build(shape).train(), random_ids(2, 33)
    theirs = as_transformers(model)
    model.loss(block[:, :-1], block[:, 1:]).backward()
    F.cross_entropy(theirs(block[:, :-1]).logits.flatten(0, 1), block[:, 1:].flatten()).backward()
    expected = dict(theirs.named_parameters())
    gradients = to_hub_state(
        {name: weight.grad for name, weight in model.named_parameters()}, model.config
    )
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            gradient,
            expected[name].grad,
            atol=1e-4,
            rtol=1e-3,
            msg=lambda text, name=name: f"{name}: {text}",
        )


@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_generation_equals_transformers(shape: str) -> None:
    model, prompt = build(shape), random_ids(1, 4)
    theirs = as_transformers(model).generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_length=32,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    cache, ids, new = KVCache(model.config, 1, model.token_embedding.weight), prompt, prompt
    with torch.no_grad():
        while ids.shape[1] < 32:
            new = model(new, cache)[:, -1:].argmax(-1)
            ids = torch.cat([ids, new], dim=1)
    assert ids.tolist() == theirs.tolist()


@pytest.mark.parametrize("shape", SHAPES)
@law
@given(cuts=st.sets(st.integers(1, 31)), seed=st.integers(0, 9))
def test_cached_equals_uncached_for_any_split(shape: str, cuts: set[int], seed: int) -> None:
    model, ids = build(shape), random_ids(2, 32, seed)
    cache = KVCache(model.config, 2, model.token_embedding.weight)
    bounds = [0, *sorted(cuts), 32]
    with torch.no_grad():
        parts = [
            model(ids[:, first:last], cache)
            for first, last in zip(bounds, bounds[1:], strict=False)
        ]
        assert cache.length == 32
        torch.testing.assert_close(torch.cat(parts, dim=1), model(ids), atol=1e-4, rtol=0)


@law
@given(place=st.integers(1, 31), seed=st.integers(0, 9))
@pytest.mark.parametrize("with_gradients", [False, True])
def test_future_tokens_cannot_change_past_logits(
    tiny_model: SimpleLLM, with_gradients: bool, place: int, seed: int
) -> None:
    ids = random_ids(2, 32, seed)
    changed = ids.clone()
    changed[:, place:] = (changed[:, place:] + 7) % 300
    with torch.set_grad_enabled(with_gradients):
        before, after = tiny_model(ids), tiny_model(changed)
    torch.testing.assert_close(before[:, :place], after[:, :place], atol=1e-6, rtol=1e-6)
    assert not torch.allclose(before[:, place:], after[:, place:])


def test_every_past_token_can_change_the_last_logits(tiny_model: SimpleLLM) -> None:
    ids = random_ids(1, 32)
    for place in range(32):
        changed = ids.clone()
        changed[0, place] = (changed[0, place] + 7) % 300
        assert not torch.equal(tiny_model(ids)[0, -1], tiny_model(changed)[0, -1])


def test_rows_of_a_batch_are_independent(tiny_model: SimpleLLM) -> None:
    ids = random_ids(3, 32)
    torch.testing.assert_close(tiny_model(ids)[1], tiny_model(ids[1:2])[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ["modern", "gpt2"])
@pytest.mark.parametrize("tie_embeddings", [True, False])
@pytest.mark.parametrize("n_embd", [64, 384])
def test_a_new_model_predicts_all_tokens_about_equally(
    architecture: str, tie_embeddings: bool, n_embd: int
) -> None:
    config = ModelConfig(
        architecture=architecture,
        n_layer=2,
        n_embd=n_embd,
        vocab_size=1024,
        tie_embeddings=tie_embeddings,
    )
    model = SimpleLLM(config).init_weights(torch.Generator().manual_seed(1))
    block = torch.randint(1024, (8, 65), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert float(model.loss(block[:, :-1], block[:, 1:])) == pytest.approx(
            math.log(1024), abs=0.35
        )


def test_initial_weights_depend_on_the_generator_only() -> None:
    config = ModelConfig(n_layer=1, n_embd=32)
    first, again, other = (
        SimpleLLM(config).init_weights(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)]
    assert all(same) and not torch.equal(first.token_embedding.weight, other.token_embedding.weight)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("with_gradients", [False, True])
def test_the_loss_is_the_cross_entropy_of_the_logits(
    tiny_model: SimpleLLM, smoothing: float, with_gradients: bool
) -> None:
    block = random_ids(3, 33)
    with torch.set_grad_enabled(with_gradients):
        logits, loss = (
            tiny_model(block[:, :-1]),
            tiny_model.loss(block[:, :-1], block[:, 1:], smoothing),
        )
    expected = F.cross_entropy(
        logits.flatten(0, 1), block[:, 1:].flatten(), label_smoothing=smoothing
    )
    torch.testing.assert_close(loss, expected)


def test_more_tokens_than_block_size_are_refused(tiny_model: SimpleLLM) -> None:
    with pytest.raises(AssertionError, match="block_size"):
        tiny_model(random_ids(1, 33))


def test_r_drop_adds_what_two_passes_with_different_dropout_disagree():
    config = ModelConfig(n_layer=2, n_head=2, n_embd=32, block_size=16, vocab_size=300, dropout=0.5)
    model = SimpleLLM(config).init_weights(torch.Generator().manual_seed(1))
    with torch.no_grad():
        for block in model.blocks:
            block.feed_forward.down.weight.normal_(
                0, 0.3, generator=torch.Generator().manual_seed(2)
            )
    ids, targets = torch.randint(300, (3, 16)), torch.randint(300, (3, 16))

    def loss(weight: float) -> float:
        torch.manual_seed(3)
        return float(model.loss(ids, targets, r_drop=weight).detach())

    assert loss(2.0) - loss(1.0) == pytest.approx(loss(3.0) - loss(2.0), rel=1e-3)
    assert loss(2.0) - loss(1.0) > 1e-3
    model.eval()
    assert loss(2.0) == pytest.approx(loss(0.0), abs=1e-5)
