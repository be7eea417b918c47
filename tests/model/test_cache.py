"""The KV cache grows with use, and growing changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from simplellm.config.model import ModelConfig
from simplellm.data.tokenizer import Tokenizer
from simplellm.inference.batch import BatchDecoder
from simplellm.inference.decoder import Decoder
from simplellm.inference.sampler import Sampler
from simplellm.model import cache as caches
from simplellm.model.cache import KVCache
from simplellm.model.transformer import SimpleLLM

IDS = torch.randint(300, (1, 32), generator=torch.Generator().manual_seed(4))


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "FIRST_CAPACITY", 3)


def test_a_long_context_is_not_reserved_at_first() -> None:
    config = ModelConfig(block_size=40_960, vocab_size=300)
    cache = KVCache(config, 1, torch.zeros(1))
    assert cache.capacity <= 512
    cache.reserve(513)
    assert 513 <= cache.capacity <= 1024
    cache.length = 513
    cache.reserve(40_960)
    assert cache.capacity == 40_960


def test_a_cache_that_grows_gives_the_same_logits(tiny_model: SimpleLLM, small_steps: None) -> None:
    cache = KVCache(tiny_model.config, 1, tiny_model.token_embedding.weight)
    assert cache.capacity == 3
    with torch.no_grad():
        parts = [tiny_model(IDS[:, start:end], cache) for start, end in ((0, 2), (2, 9), (9, 32))]
        expected = tiny_model(IDS)
    torch.testing.assert_close(torch.cat(parts, 1), expected, atol=1e-4, rtol=0)
    assert cache.capacity == 32


def test_the_decoder_follows_a_cache_that_grows(tiny_model: SimpleLLM, small_steps: None) -> None:
    cache = KVCache(tiny_model.config, 1, tiny_model.token_embedding.weight)
    decoder = Decoder(tiny_model)
    ids = IDS[0].tolist()
    found = [decoder.read(cache, [token]).copy() for token in ids[:5]]
    with torch.no_grad():
        tiny_model(IDS[:, 5:20], cache)  # grows it without the decoder
        found += [decoder.read(cache, [token]).copy() for token in ids[20:]]
        expected = tiny_model(IDS)[0].numpy()
    np.testing.assert_allclose(np.stack(found[:5]), expected[:5], atol=1e-4)
    np.testing.assert_allclose(np.stack(found[5:]), expected[20:], atol=1e-4)


def test_a_batch_follows_a_cache_that_grows(tiny_model: SimpleLLM, small_steps: None) -> None:
    ranks = {bytes([byte]): byte for byte in range(256)}
    sampler = Sampler(tiny_model, Tokenizer(ranks, end_of_text=299))
    decoder = BatchDecoder(sampler, 32)
    texts = [IDS[0, :4].tolist(), IDS[0, :4].tolist()]
    for step in range(4, 20):
        logits = decoder.next_logits(texts)
        texts = [[*texts[0], int(IDS[0, step])], [*texts[1], (step * 7) % 256]]
    logits = decoder.next_logits(texts)
    with torch.no_grad():
        expected = tiny_model(torch.tensor(texts))[:, -1]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
