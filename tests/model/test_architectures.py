"""An architecture is the sum of its parts: any combination of them trains, decodes and is saved."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from simplellm.checkpoint.hugging_face import (
    from_hub_config,
    from_hub_state,
    to_hub_config,
    to_hub_state,
)
from simplellm.checkpoint.tensors import lazy
from simplellm.config.architectures import ARCHITECTURES as FACTS
from simplellm.config.model import ModelConfig
from simplellm.inference.decoder import Decoder
from simplellm.inference.quantize import quantize
from simplellm.model.attention import MultiHeadAttention
from simplellm.model.block import TransformerBlock
from simplellm.model.cache import KVCache
from simplellm.model.feed_forward import MLP, GatedMLP
from simplellm.model.gpt2 import GPT2
from simplellm.model.layers import RMSNorm
from simplellm.model.modern import Modern
from simplellm.model.registry import ARCHITECTURES
from simplellm.model.rope import rope_frequencies
from simplellm.model.transformer import SimpleLLM


class LikeLlama(Modern):
    """No QK-norm, another norm epsilon, another RoPE base."""

    def build_block(self, config: ModelConfig, layer: int) -> TransformerBlock:
        attention = MultiHeadAttention(config, layer, qkv_bias=False, proj_bias=False)
        return TransformerBlock(
            self.build_norm(config),
            attention,
            self.build_norm(config),
            GatedMLP(config, bias=False),
            config.dropout,
        )

    def build_norm(self, config: ModelConfig) -> RMSNorm:
        return RMSNorm(config.n_embd, 1e-2)

    def rope_frequencies(self, config: ModelConfig) -> np.ndarray:
        return rope_frequencies(config.head_size, 500.0)


class MixedRotary(Modern):
    """Rotary positions with LayerNorm, biases and a plain feed-forward layer."""

    def build_block(self, config: ModelConfig, layer: int) -> TransformerBlock:
        return TransformerBlock(
            self.build_norm(config),
            MultiHeadAttention(config, layer, qkv_bias=True, proj_bias=True),
            self.build_norm(config),
            MLP(config, bias=True),
            config.dropout,
        )

    def build_norm(self, config: ModelConfig) -> nn.LayerNorm:  # type: ignore[override]
        return nn.LayerNorm(config.n_embd, 1e-3)


class MixedLearned(GPT2):
    """Learned positions with RMSNorm, QK-norm and a gated feed-forward layer."""

    def build_block(self, config: ModelConfig, layer: int) -> TransformerBlock:
        return TransformerBlock(
            self.build_norm(config),
            MultiHeadAttention(config, layer, qkv_bias=False, proj_bias=False, qk_norm_eps=1e-3),
            self.build_norm(config),
            GatedMLP(config, bias=False),
            config.dropout,
        )

    def build_norm(self, config: ModelConfig) -> RMSNorm:  # type: ignore[override]
        return RMSNorm(config.n_embd, 1e-3)


@pytest.fixture(params=[LikeLlama, MixedRotary, MixedLearned])
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SimpleLLM:
    """A model of that architecture, registered in place of its base class, all weights random."""
    name = "modern" if issubclass(request.param, Modern) else "gpt2"
    monkeypatch.setitem(ARCHITECTURES, name, request.param())
    config = ModelConfig(
        architecture=name, n_layer=2, n_head=4, n_embd=32, block_size=24, vocab_size=257
    )
    model = SimpleLLM(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0.0 if weight.dim() == 2 else 1.0, 0.2, generator=generator)
    return model


def decoded(model: SimpleLLM, ids: list[int]) -> np.ndarray:
    decoder, cache = Decoder(model), KVCache(model.config, 1, model.token_embedding.weight)
    return np.stack([decoder.read(cache, [token]).copy() for token in ids])


def test_each_architecture_has_facts_and_a_module() -> None:
    assert list(FACTS) == list(ARCHITECTURES)
    assert all(name == architecture.name for name, architecture in ARCHITECTURES.items())


def test_each_architecture_reads_what_it_writes() -> None:
    for name in FACTS:
        heads = {} if name == "gpt2" else {"n_kv_head": 2}
        config = ModelConfig(architecture=name, vocab_size=300, n_inner=96, **heads)
        assert from_hub_config(to_hub_config(config, 0), "x") == config


def test_the_decoder_computes_what_the_model_computes(model: SimpleLLM) -> None:
    ids = torch.randint(257, (24,), generator=torch.Generator().manual_seed(2)).tolist()
    with torch.no_grad():
        expected = model(torch.tensor([ids]))[0].numpy()
    np.testing.assert_allclose(decoded(model, ids), expected, atol=2e-5, rtol=1e-4)


def test_the_cache_changes_nothing(model: SimpleLLM) -> None:
    ids = torch.randint(257, (1, 24), generator=torch.Generator().manual_seed(2))
    cache = KVCache(model.config, 1, model.token_embedding.weight)
    with torch.no_grad():
        parts = [model(ids[:, :9], cache), model(ids[:, 9:10], cache), model(ids[:, 10:], cache)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(ids), atol=1e-4, rtol=0)


def test_a_quantized_model_gives_nearly_the_same_answers(model: SimpleLLM) -> None:
    ids = torch.randint(257, (1, 24), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        before = model(ids).log_softmax(-1)
        after = quantize(model)(ids).log_softmax(-1)
    assert float((before.exp() * (before - after)).sum(-1).mean()) < 0.02  # nats


def test_every_weight_gets_an_initial_value_and_a_gradient(model: SimpleLLM) -> None:
    model.init_weights(torch.Generator().manual_seed(3))
    block = torch.randint(257, (2, 25), generator=torch.Generator().manual_seed(2))
    loss = model.loss(block[:, :-1], block[:, 1:])
    loss.backward()
    assert float(loss.detach()) == pytest.approx(np.log(257), abs=0.5)
    assert all(weight.grad is not None for weight in model.parameters())


def test_a_llama_is_saved_under_the_names_of_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "modern", LikeLlama())
    config = ModelConfig(n_layer=2, n_head=4, n_kv_head=2, n_embd=32, vocab_size=257)
    model = SimpleLLM(config).init_weights(torch.Generator().manual_seed(1))
    state = model.state_dict()
    hub = to_hub_state(state, config)
    assert "model.layers.1.self_attn.v_proj.weight" in hub
    assert not any("q_norm" in name for name in hub)
    again = from_hub_state(lazy(hub), state, config)
    assert all(torch.equal(again[name], state[name]) for name in state)
    assert from_hub_config(to_hub_config(config, 0), "x").n_kv_head == 2
