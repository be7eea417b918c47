"""The prefix cache of the engine: less to compute, the same replies, a bound on memory."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from byte_models import BYTES, PLAIN, byte_model
from engine_clients import Client, seeded

from simplellm.inference.engine.engine import Engine
from simplellm.inference.engine.limits import EngineLimits
from simplellm.inference.engine.prefix_cache import PrefixCache
from simplellm.inference.sampler import Sampler
from simplellm.model.cache import KVCache

SETTINGS = replace(PLAIN, max_new_tokens=12)
WITHOUT = EngineLimits(prefix_cache_bytes=0)


def endless_sampler(architecture: str = "modern", block_size: int = 200) -> Sampler:
    sampler = Sampler(byte_model(architecture, block_size), BYTES)
    sampler.end_ids = frozenset()
    return sampler


def conversation(engine: Engine, n_turns: int) -> tuple[list[str], list[int]]:
    """Replies, and the numbers of tokens that were taken from the prefix cache."""
    ids, texts, cached = list(b"first question"), [], []
    for turn in range(n_turns):
        client = Client(engine, ids, seeded(SETTINGS, turn))
        texts.append(client.text)
        cached.append(client.end.cached_tokens)
        ids += [token.token for token in client.tokens if token.token is not None]
        ids += list(b" and more")
    return texts, cached


@pytest.mark.parametrize("architecture", ["modern", "gpt2"])
def test_the_next_turn_computes_its_new_tokens_only(architecture):
    with Engine(endless_sampler(architecture)) as engine:
        with_cache, cached = conversation(engine, 4)
        statistics = engine.statistics
    with Engine(endless_sampler(architecture), WITHOUT) as engine:
        without, none = conversation(engine, 4)
    assert with_cache == without and none == [0] * 4
    # all but the last token of a reply were read
    assert cached == [0, 14 + 11, 14 + 11 + 21, 14 + 11 + 2 * 21]
    assert statistics.cached_tokens == sum(cached)


def test_two_conversations_with_one_beginning_share_it():
    with Engine(endless_sampler()) as engine:
        ends = [
            Client(engine, list(b"the same beginning, " + rest), seeded(SETTINGS, 1)).end
            for rest in (b"one", b"two", b"three")
        ]
    assert [end.cached_tokens for end in ends] == [0, 20, 21]


def test_replies_to_one_prompt_at_once_read_it_once():
    ids = list(b"a prompt " * 15)
    with Engine(endless_sampler(), WITHOUT) as engine:
        alone = [Client(engine, ids, seeded(SETTINGS, seed)).text for seed in range(4)]
    with Engine(endless_sampler(), WITHOUT) as engine:
        engine.call(lambda sampler: time.sleep(0.05))  # until all requests are there
        clients = [Client(engine, ids, seeded(SETTINGS, seed)) for seed in range(4)]
        assert [client.text for client in clients] == alone
        statistics = engine.statistics
    cached = [client.end.cached_tokens for client in clients]
    assert cached[0] == 0 and cached[2:] == [134, 134] and 70 <= cached[1] <= 134
    assert statistics.cached_tokens == sum(cached)


def test_the_oldest_prefix_is_dropped_where_memory_is_full():
    model = byte_model(block_size=200)

    def filled(ids: list[int]) -> KVCache:
        cache = KVCache(model.config, 1, model.token_embedding.weight)
        with torch.no_grad():
            model(torch.tensor([ids], dtype=torch.long), cache)
        return cache

    texts = [[n] * 20 for n in range(5)]
    caches = [filled(ids) for ids in texts]
    one = (caches[0].keys.nbytes + caches[0].values.nbytes) // caches[0].capacity * 20
    prefixes = PrefixCache(max_bytes=3 * one)
    for number in (0, 1, 2):
        prefixes.store(texts[number], caches[number])
    assert prefixes.load([*texts[0], 7], filled([])) == 20  # now the most recently used
    for number in (3, 4):
        prefixes.store(texts[number], caches[number])
        assert prefixes.n_bytes <= 3 * one
    lengths = [prefixes.load([*ids, 7], filled([])) for ids in texts]
    assert lengths == [20, 0, 0, 20, 20] and len(prefixes) == 3


def test_a_longer_text_replaces_its_beginning_and_a_shorter_one_adds_nothing():
    model = byte_model(block_size=200)
    cache = KVCache(model.config, 1, model.token_embedding.weight)
    ids, prefixes = list(range(50)), PrefixCache(1 << 20)
    for length in (20, 50, 30):
        cache.length = length
        prefixes.store(ids, cache)
    assert len(prefixes) == 1
    cache.length = 0
    assert prefixes.load(ids, cache) == 49  # the last token gives the logits
    prefixes.clear()
    assert prefixes.n_bytes == 0


def test_the_engine_keeps_within_the_bound_of_its_prefix_cache():
    limits = EngineLimits(prefix_cache_bytes=50_000)
    with Engine(endless_sampler(), limits) as engine:
        for seed in range(8):
            assert Client(engine, [seed] * 40, seeded(SETTINGS, seed)).end.reason == "length"
            assert 0 < engine.statistics.prefix_cache_bytes <= 50_000
