"""The reply to a request with a seed is the same whatever else the engine computes."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from byte_models import BYTES, PLAIN, byte_model
from engine_clients import Client
from test_decoder import without_compiler

from simplellm.config.sampling import SamplingParams
from simplellm.inference.engine.engine import Engine
from simplellm.inference.engine.limits import EngineLimits
from simplellm.inference.engine.request import QueueFull
from simplellm.inference.quantize import quantize
from simplellm.inference.sampler import Sampler

N_OTHERS = 8
SETTINGS = replace(PLAIN, max_new_tokens=24)
Outcome = tuple[str, str, list[int | None]]


def requests(n: int) -> list[tuple[list[int], SamplingParams]]:
    """Prompts of 1 to 120 tokens, some of which begin alike."""
    draw = random.Random(0)
    beginnings = [draw.randbytes(60) for _ in range(4)]
    found = []
    for seed in range(n):
        beginning = draw.choice(beginnings)[: draw.randint(0, 60)]
        ids = [*beginning, *draw.randbytes(draw.randint(1, 60))]
        found.append((ids, replace(SETTINGS, seed=seed, temperature=draw.choice([0.7, 1.0, 1.5]))))
    return found


def outcome(client: Client) -> Outcome:
    return client.text, client.end.reason, [token.token for token in client.tokens]


class Others:
    """Clients that keep some replies running, with random prompts; some cancel."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._draw = random.Random(1)
        self._is_open = True
        self._threads = [threading.Thread(target=self._ask) for _ in range(N_OTHERS)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *error: object) -> None:
        self._is_open = False
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        while self._is_open:
            ids = list(self._draw.randbytes(self._draw.randint(1, 100)))
            n = self._draw.randint(1, 60)
            try:
                client = Client(self._engine, ids, replace(SETTINGS, max_new_tokens=n))
            except QueueFull:
                continue
            if self._draw.random() < 0.2:
                client.ticket.cancel()
            assert client.end.reason != "error"


def check(build: Callable[[], Sampler], n: int, prefix_cache_bytes: int) -> int:
    """Number of replies that differ between the engine alone and among others."""
    with Engine(build(), EngineLimits(max_running=1, prefix_cache_bytes=0)) as engine:
        alone = [outcome(Client(engine, *request)) for request in requests(n)]
    limits = EngineLimits(max_running=N_OTHERS + 1, prefix_cache_bytes=prefix_cache_bytes)
    with Engine(build(), limits) as engine, Others(engine):
        among = [outcome(Client(engine, *request)) for request in requests(n)]
    return sum(one != other for one, other in zip(alone, among, strict=True))


@pytest.mark.parametrize("n", [8, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("weights", ["float32", "int8"])
@pytest.mark.parametrize("architecture", ["modern", "gpt2"])
def test_requests_alone_and_among_others_get_the_same_replies(architecture, weights, n):
    def build() -> Sampler:
        model = byte_model(architecture, block_size=100)
        return Sampler(quantize(model) if weights == "int8" else model, BYTES)

    assert check(build, n, prefix_cache_bytes=200_000) == 0


@pytest.mark.parametrize("n", [4, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_they_do_so_without_a_compiler(weights, n, monkeypatch):
    without_compiler(monkeypatch)

    def build() -> Sampler:
        model = byte_model(block_size=100)
        return Sampler(quantize(model) if weights == "int8" else model, BYTES)

    assert check(build, n, prefix_cache_bytes=0) == 0
