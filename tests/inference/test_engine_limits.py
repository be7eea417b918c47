"""Limits of the engine: memory of the running replies, places, and nothing left behind."""

from __future__ import annotations

import gc
import random
import time
import weakref
from dataclasses import replace

import pytest
from byte_models import BYTES, PLAIN, byte_model
from engine_clients import SECONDS, Client

from simplellm.errors import DeviceError
from simplellm.inference.engine.engine import Engine
from simplellm.inference.engine.limits import EngineLimits, Statistics
from simplellm.inference.engine.rows import Rows
from simplellm.inference.sampler import Sampler
from simplellm.model.cache import KVCache

ENDLESS = replace(PLAIN, max_new_tokens=100_000)


def endless_sampler(block_size: int = 64) -> Sampler:
    sampler = Sampler(byte_model(block_size=block_size), BYTES)
    sampler.end_ids = frozenset()
    return sampler


def wait_for(engine: Engine, **expected: int) -> Statistics:
    """The statistics once they have these values."""
    stop = time.monotonic() + SECONDS
    while any(getattr(engine.statistics, name) != value for name, value in expected.items()):
        assert time.monotonic() < stop, f"{expected} is not reached: {engine.statistics}"
        time.sleep(0.001)
    return engine.statistics


def test_a_request_that_does_not_fit_into_memory_waits():
    sampler = endless_sampler()
    one = Rows(sampler).cache_bytes(64)
    limits = EngineLimits(max_running=8, max_waiting=8, kv_bytes=2 * one)
    with Engine(sampler, limits) as engine:
        long = [Client(engine, [n], ENDLESS) for n in range(3)]
        statistics = wait_for(engine, running=2, waiting=1)
        assert statistics.kv_bytes == 2 * one
        long[0].ticket.cancel()
        wait_for(engine, running=2, waiting=0)
        assert long[0].end.reason == "cancelled" and len(long[2].ends) == 0


def test_a_request_that_is_larger_than_the_limit_runs_alone():
    with Engine(endless_sampler(), EngineLimits(kv_bytes=1)) as engine:
        clients = [Client(engine, [n], replace(PLAIN, max_new_tokens=3)) for n in range(3)]
        assert [client.end.reason for client in clients] == ["length"] * 3


def test_the_kv_cache_of_a_reply_has_no_more_memory_than_was_counted():
    sampler = endless_sampler(2000)
    rows = Rows(sampler)
    for n in (5, 600, 1100, 2000):
        cache = rows.new_cache(n)
        for length in range(0, n, 97):
            cache.reserve(length + 1)
            cache.length = length
        cache.reserve(n)
        assert cache.keys.nbytes + cache.values.nbytes == rows.cache_bytes(n)


def test_a_request_for_which_there_is_no_memory_fails_alone(monkeypatch):
    def new_cache(rows: Rows, n_positions: int) -> KVCache:
        if n_positions == 13:
            raise DeviceError("out of memory")
        return original(rows, n_positions)

    original = Rows.new_cache
    monkeypatch.setattr(Rows, "new_cache", new_cache)
    with Engine(endless_sampler()) as engine:
        clients = [Client(engine, [1] * n, replace(PLAIN, max_new_tokens=4)) for n in (9, 10, 11)]
        assert [client.end.reason for client in clients] == ["length", "error", "length"]
        assert isinstance(clients[1].end.error, DeviceError)


def test_a_pass_that_fails_ends_the_reply_that_causes_it_only(monkeypatch):
    sampler = endless_sampler()
    assert sampler.decoder is not None
    read = type(sampler.decoder).read_parts

    def failing(decoder, parts):
        if any(part.tokens[-1] == 77 and part.cache.length == 0 for part in parts):
            raise MemoryError
        return read(decoder, parts)

    monkeypatch.setattr(type(sampler.decoder), "read_parts", failing)
    with Engine(sampler) as engine:
        settings = replace(PLAIN, max_new_tokens=20)
        clients = [Client(engine, ids, settings) for ids in ([65], [66, 77], [67], [68])]
        reasons = [client.end.reason for client in clients]
    assert reasons == ["length", "error", "length", "length"]


@pytest.mark.parametrize("n", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_cancelled_requests_leave_no_place_and_no_memory(n, monkeypatch):
    caches: weakref.WeakSet[KVCache] = weakref.WeakSet()
    original = Rows.new_cache

    def new_cache(rows: Rows, n_positions: int) -> KVCache:
        caches.add(cache := original(rows, n_positions))
        return cache

    monkeypatch.setattr(Rows, "new_cache", new_cache)
    draw = random.Random(0)
    with Engine(endless_sampler(), EngineLimits(prefix_cache_bytes=0)) as engine:
        for _ in range(n // 10):
            clients = [Client(engine, list(draw.randbytes(9)), ENDLESS) for _ in range(10)]
            for client in draw.sample(clients, 10):
                if draw.random() < 0.5:
                    time.sleep(0.001 * draw.random())
                client.ticket.cancel()
            assert [client.end.reason for client in clients] == ["cancelled"] * 10
        statistics = wait_for(engine, running=0, waiting=0)
        assert statistics.kv_bytes == 0
        assert Client(engine, [65], replace(PLAIN, max_new_tokens=2)).end.reason == "length"
        wait_for(engine, running=0)
        gc.collect()
        assert len(caches) == 0


def test_a_long_prompt_does_not_stop_a_running_reply():
    """While a prompt of 1900 tokens is read, another reply goes on token by token."""
    with Engine(endless_sampler(2000), EngineLimits(prefix_cache_bytes=0)) as engine:
        running = Client(engine, [65], ENDLESS)
        stop = time.monotonic() + SECONDS
        while not running.tokens:
            assert time.monotonic() < stop
        n_before = len(running.tokens)
        long = Client(engine, [66] * 1900, replace(PLAIN, max_new_tokens=1))
        assert long.end.reason == "length"
        assert len(running.tokens) - n_before >= 1900 // 300
