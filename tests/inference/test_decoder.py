"""The decoder computes in numpy, token by token, what the model computes in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simplellm.config.model import ModelConfig
from simplellm.inference.decoder import Decoder
from simplellm.model.cache import KVCache
from simplellm.model.transformer import SimpleLLM

SHAPES = [
    {}, {"n_kv_head": 2}, {"n_kv_head": 1}, {"tie_embeddings": False}, {"n_head": 1},
    {"architecture": "gpt2"}, {"architecture": "gpt2", "tie_embeddings": False},
    {"architecture": "gpt2", "n_embd": 36},
]  # fmt: skip


def random_model(seed: int = 0, size: float = 0.2, **fields: object) -> SimpleLLM:
    """Every weight random, the gains and biases too."""
    config = ModelConfig(
        **{"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 24, "vocab_size": 257, **fields}
    )
    model, generator = SimpleLLM(config).eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0.0 if weight.dim() == 2 else 1.0, size, generator=generator)
    return model


def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("sampler", "decoder", "row_operations", "row_attention"):
        monkeypatch.setattr(f"simplellm.inference.{module}.native_products", lambda: None)


def cache_of(model: SimpleLLM) -> KVCache:
    return KVCache(model.config, 1, model.token_embedding.weight)


def read_all(model: SimpleLLM, ids: list[int]) -> np.ndarray:
    decoder, cache = Decoder(model), cache_of(model)
    return np.stack([decoder.read(cache, [token]).copy() for token in ids])


@pytest.mark.parametrize("fields", SHAPES, ids=str)
def test_the_decoder_gives_the_logits_of_the_model(fields):
    model, ids = random_model(**fields), torch.randint(257, (24,)).tolist()
    with torch.no_grad():
        expected = model(torch.tensor([ids]))[0].numpy()
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(read_all(model, ids), expected, atol=2e-5, rtol=1e-4)


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.integers(0, 256), min_size=2, max_size=24),
    st.data(),
    st.sampled_from(["modern", "gpt2"]),
)
def test_the_decoder_continues_from_the_cache_of_the_model(ids, data, architecture):
    model = random_model(architecture=architecture)
    cut = data.draw(st.integers(1, len(ids) - 1))
    cache = cache_of(model)
    decoder = Decoder(model)
    with torch.no_grad():
        model(torch.tensor([ids[:cut]]), cache)
        last = [decoder.read(cache, [token]).copy() for token in ids[cut:]][-1]
        expected = model(torch.tensor([ids]))[0, -1].numpy()
    assert cache.length == len(ids)
    np.testing.assert_allclose(last, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("gain", [1.0, 60.0])
def test_large_gains_of_the_query_norm_do_not_overflow(gain):
    model, ids = random_model(), list(range(24))
    with torch.no_grad():
        for block in model.blocks:
            block.attention.q_norm.weight.fill_(gain)
            block.attention.k_norm.weight.fill_(gain)
        expected = model(torch.tensor([ids]))[0].numpy()
    np.testing.assert_allclose(read_all(model, ids), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("is_faster", [True, False, "tried out"])
@pytest.mark.parametrize("has_compiler", [True, False])
@pytest.mark.parametrize("architecture", ["modern", "gpt2"])
def test_large_matrices_multiplied_on_all_cores_give_the_same_logits(
    monkeypatch, architecture, has_compiler, is_faster
):
    if not has_compiler:
        without_compiler(monkeypatch)
    monkeypatch.setattr("simplellm.inference.row_operations.LARGE_MATRIX_BYTES", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    if is_faster != "tried out":
        monkeypatch.setattr(
            "simplellm.inference.row_operations._is_faster_in_torch",
            lambda rows, columns: is_faster,
        )
    model, ids = random_model(architecture=architecture), list(range(24))
    with torch.no_grad():
        expected = model(torch.tensor([ids]))[0].numpy()
    np.testing.assert_allclose(read_all(model, ids), expected, atol=2e-5, rtol=1e-4)


def test_the_decoder_uses_the_weights_of_the_model():
    model = random_model()
    decoder = Decoder(model)
    with torch.no_grad():
        model.final_norm.weight.zero_()
    assert not decoder.read(cache_of(model), [3]).any()


def test_a_nan_weight_gives_nan_logits():
    model = random_model()
    with torch.no_grad():
        model.blocks[0].attention.qkv.weight[0, 0] = float("nan")
    assert np.isnan(Decoder(model).read(cache_of(model), [1])).all()
