"""The engine: replies of many clients, computed together, equal those of the sampler alone."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from byte_models import BYTES, GREEDY, PLAIN, byte_model
from engine_clients import SECONDS, Client, seeded

from simplellm.config.sampling import SamplingParams
from simplellm.errors import SamplingError, SettingError
from simplellm.inference.engine.engine import Engine
from simplellm.inference.engine.limits import EngineLimits
from simplellm.inference.engine.request import EngineClosed, NewToken, QueueFull
from simplellm.inference.quantize import quantize
from simplellm.inference.sampler import Sampler

ARCHITECTURES = ("modern", "gpt2", "llama", "qwen2", "qwen3")
LONG = replace(PLAIN, max_new_tokens=100_000)


def sampler_of(architecture: str = "modern", block_size: int = 32) -> Sampler:
    return Sampler(byte_model(architecture, block_size), BYTES)


def endless_sampler() -> Sampler:
    """No token ends its replies."""
    sampler = sampler_of()
    sampler.end_ids = frozenset()
    return sampler


def wait_until(condition: object) -> None:
    stop = time.monotonic() + SECONDS
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < stop, "it does not happen"
        time.sleep(0.001)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_replies_computed_together_equal_those_of_the_sampler(architecture, weights):
    """With prompts and replies that exceed the context of 32 tokens."""
    sampler = sampler_of(architecture)
    if weights == "int8":
        quantize(sampler.model)
        sampler = Sampler(sampler.model, BYTES)
    prompts = [list(range(60, 60 + n)) for n in (1, 3, 31, 32, 33, 50)]
    params = [seeded(replace(PLAIN, max_new_tokens=5 + 9 * n), n) for n in range(len(prompts))]
    expected = []
    for ids, settings in zip(prompts, params, strict=True):
        reply = sampler.stream(ids, settings)
        pieces = list(reply)
        expected.append((reply.text, reply.stop_reason, [piece.token for piece in pieces]))
    with Engine(sampler) as engine:
        clients = [Client(engine, *pair) for pair in zip(prompts, params, strict=True)]
        found = [
            (client.text, client.end.reason, [token.token for token in client.tokens])
            for client in clients
        ]
    assert found == expected


def test_replies_of_a_model_in_16_bits_equal_those_of_the_sampler():
    """The decoder has no such weights: the model computes each reply alone, as on a GPU."""
    model = byte_model(block_size=400).to(torch.bfloat16)
    prompts = [[65] * n for n in (1, 20, 200)]
    params = [seeded(replace(PLAIN, max_new_tokens=20), n) for n in range(3)]
    alone = [Sampler(model, BYTES).stream(*pair) for pair in zip(prompts, params, strict=True)]
    expected = ["".join(piece.text for piece in reply) for reply in alone]
    sampler = Sampler(model, BYTES)
    assert sampler.decoder is None
    with Engine(sampler) as engine:
        clients = [Client(engine, *pair) for pair in zip(prompts, params, strict=True)]
        assert [client.text for client in clients] == expected


def test_a_bug_of_the_engine_leaves_no_client_waiting(monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    with Engine(endless_sampler()) as engine:
        clients = [Client(engine, [65], LONG) for _ in range(3)]
        monkeypatch.setattr(type(engine._running), "step", lambda running: 1 / 0)
        assert [client.end.reason for client in clients] == ["error"] * 3
        with pytest.raises(EngineClosed):
            Client(engine, [65], LONG)


def test_a_reply_has_statistics_stop_sequences_and_whole_characters():
    sampler = sampler_of()
    params = SamplingParams(
        temperature=3, top_k=0, top_p=1, seed=3, max_new_tokens=300, stop=("e",)
    )
    reply = sampler.stream(list(b"ab"), params)
    expected = list(reply)
    with Engine(sampler) as engine:
        client = Client(engine, list(b"ab"), params, top=4)
        end = client.end
    assert (end.reason, end.text, end.seed) == (reply.stop_reason, reply.text, 3)
    assert (end.prompt_tokens, end.new_tokens) == (2, len(reply.new_ids))
    assert [token.text for token in client.tokens] == [token.text for token in expected]
    for token, streamed in zip(client.tokens, expected, strict=True):
        assert token.rank == streamed.rank and token.entropy == pytest.approx(streamed.entropy)
        assert np.exp(token.log_probability) == pytest.approx(streamed.probability, rel=1e-4)


def test_the_most_likely_tokens_come_with_each_token():
    sampler = sampler_of()
    ids = list(b"ab")
    logits = sampler.next_logits(ids).astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum())
    with Engine(sampler) as engine:
        client = Client(engine, ids, replace(GREEDY, max_new_tokens=1), top=5)
        assert client.end.reason in ("length", "end_of_text")
    tokens, values = zip(*client.tokens[0].top, strict=True)
    assert list(tokens) == np.argsort(-expected, kind="stable")[:5].tolist()
    np.testing.assert_allclose(values, expected[list(tokens)], atol=1e-4)
    assert client.tokens[0].token == tokens[0]
    assert client.tokens[0].log_probability == pytest.approx(values[0], abs=1e-4)


def test_a_request_joins_and_leaves_while_another_runs():
    sampler = endless_sampler()
    with Engine(sampler) as engine:
        long = Client(engine, [65], seeded(LONG, 1))
        wait_until(lambda: len(long.tokens) > 3)
        short = Client(engine, [66], seeded(replace(PLAIN, max_new_tokens=3), 2))
        assert short.end.new_tokens <= 3 and not long.ends
        n_before = len(long.tokens)
        wait_until(lambda: len(long.tokens) > n_before)
        long.ticket.cancel()
        assert long.end.reason == "cancelled"


def test_a_cancelled_request_frees_its_place():
    with Engine(endless_sampler(), EngineLimits(max_running=1, max_waiting=2)) as engine:
        running = Client(engine, [65], LONG)
        wait_until(lambda: running.tokens)
        waiting = Client(engine, [66], LONG)
        last = Client(engine, [67], replace(PLAIN, max_new_tokens=2))
        waiting.ticket.cancel()
        assert waiting.end.reason == "cancelled" and waiting.tokens == []
        running.ticket.cancel()
        assert running.end.reason == "cancelled" and last.end.reason == "length"
        wait_until(lambda: engine.statistics.running == 0)


def test_a_full_queue_refuses_and_says_when_to_retry():
    with Engine(endless_sampler(), EngineLimits(max_running=1, max_waiting=1)) as engine:
        clients = [Client(engine, [65], LONG), Client(engine, [65], LONG)]
        with pytest.raises(QueueFull) as caught:
            Client(engine, [65], LONG)
        assert caught.value.retry_after >= 1 and "try again" in caught.value.fix
        clients[0].ticket.cancel()
        assert clients[0].end.reason == "cancelled"
        clients.append(Client(engine, [65], replace(PLAIN, max_new_tokens=1)))
        clients[1].ticket.cancel()
        assert clients[2].end.new_tokens == 1


def test_an_exception_in_a_callback_ends_its_request_only():
    def fail(token: NewToken) -> None:
        raise RuntimeError("the client is broken")

    with Engine(endless_sampler()) as engine:
        other = Client(engine, [65], seeded(replace(PLAIN, max_new_tokens=30), 1))
        broken = Client(engine, [65], LONG, on_token=fail)
        assert broken.end.reason == "error" and "broken" in str(broken.end.error)
        assert len(broken.tokens) == 1 and other.end.reason == "length"


def test_logits_that_cannot_be_sampled_end_their_request_only():
    sampler = endless_sampler()
    sampler.model.token_embedding.weight.data[7] = np.nan  # no other token has it
    with Engine(sampler) as engine:
        broken = Client(engine, [1, 7], LONG)
        assert broken.end.reason == "error"
        assert isinstance(broken.end.error, SamplingError)
        assert Client(engine, [66], replace(PLAIN, max_new_tokens=2)).end.error is not None


@pytest.mark.parametrize(
    ("ids", "params"),
    [([], PLAIN), ([300], PLAIN), ([-1], PLAIN), ([1], replace(PLAIN, num_beams=2))],
)
def test_what_the_engine_cannot_serve_is_refused(ids, params):
    with Engine(endless_sampler()) as engine, pytest.raises(SettingError):
        Client(engine, ids, params)


def test_calls_run_on_the_thread_of_the_engine_while_replies_go_on():
    sampler = endless_sampler()
    with Engine(sampler) as engine:
        long = Client(engine, [65], LONG)
        thread = engine.call(lambda sampler: threading.current_thread().name).result(SECONDS)
        assert thread == "engine" and not long.ends
        logits = engine.call(lambda sampler: sampler.next_logits([1, 2]).copy()).result(SECONDS)
        failing = engine.call(lambda sampler: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            failing.result(SECONDS)
        n_before = len(long.tokens)
        wait_until(lambda: len(long.tokens) > n_before)
    assert (logits == sampler.next_logits([1, 2])).all()


def test_close_cancels_all_requests_within_its_timeout():
    engine = Engine(endless_sampler(), EngineLimits(max_running=2)).start()
    clients = [Client(engine, [65], LONG) for _ in range(5)]
    wait_until(lambda: clients[0].tokens)
    started_at = time.monotonic()
    assert engine.close(5.0)
    assert time.monotonic() - started_at < 5.0
    assert [client.end.reason for client in clients] == ["cancelled"] * 5
    with pytest.raises(EngineClosed):
        Client(engine, [65], LONG)
    with pytest.raises(EngineClosed):
        engine.call(lambda sampler: 1)


def test_an_engine_that_was_not_started_refuses_requests():
    engine = Engine(endless_sampler())
    with pytest.raises(EngineClosed):
        Client(engine, [65], LONG)
    assert engine.close()
