"""The queue and the counts of a server: what happens when more is asked than it can do."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from simplellm.inference.engine.limits import EngineLimits

if TYPE_CHECKING:
    from server.live_server import Answer, Live
    from simplellm.inference.sampler import Sampler


def test_a_full_queue_answers_429_and_nothing_is_half_queued(byte_sampler: Sampler) -> None:
    from server.live_server import live_server, wait_until

    with live_server(byte_sampler, limits=EngineLimits(max_running=2, max_waiting=2)) as server:
        answers: list[Answer] = []
        with server.held_engine():
            clients = [
                threading.Thread(target=lambda: answers.append(server.complete("a", max_tokens=2)))
                for _ in range(3)
            ]
            for client in clients:
                client.start()
            wait_until(lambda: server.n_running == 3)
            refused = server.complete("a", n=2)
            assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
            assert int(refused.headers["retry-after"]) >= 1
        for client in clients:
            client.join()
        assert [answer.status for answer in answers] == [200] * 3
        wait_until(lambda: server.n_running == 0)
        assert server.complete("a", n=2).status == 200


def test_scores_of_prompts_wait_in_a_queue_with_a_limit(byte_sampler: Sampler) -> None:
    from server.live_server import live_server, wait_until

    with live_server(byte_sampler) as server:
        scored = {"max_tokens": 0, "echo": True, "logprobs": 1}
        with server.held_engine():
            clients = [
                threading.Thread(target=lambda: server.complete("abc", **scored)) for _ in range(32)
            ]
            for client in clients:
                client.start()
            wait_until(lambda: server.service.n_computations == 32)
            refused = server.complete("abc", **scored)
            assert refused.status == 429 and refused.headers["retry-after"] == "1"
        for client in clients:
            client.join()
        assert server.service.n_computations == 0
        assert server.complete("abc", **scored).status == 200


def test_a_server_that_stops_refuses_new_requests(byte_sampler: Sampler) -> None:
    from server.live_server import live_server

    with live_server(byte_sampler) as server:
        server.service.is_stopping = True
        refused = server.complete("a")
        assert (refused.status, refused.error["code"]) == (503, "stopping")
        assert server.get("/health").status == 503


def test_metrics_count_answers_and_tokens_and_contain_no_text(live: Live) -> None:
    before = metrics_of(live)
    live.complete("a very secret prompt", max_tokens=5)
    live.complete(5)
    live.get("/a-secret-path")
    after = metrics_of(live)
    ok = 'simplellm_http_responses_total{path="/v1/completions",status="200"}'
    wrong = 'simplellm_http_responses_total{path="/v1/completions",status="400"}'
    other = 'simplellm_http_responses_total{path="other",status="404"}'
    for name in (ok, wrong, other):
        assert after[name] == before.get(name, 0) + 1
    name = "simplellm_generated_tokens_total"
    assert after[name] - before[name] == 5
    assert after["simplellm_running"] == 0
    text = live.get("/metrics").body.decode()
    assert "secret" not in text and live.get("/metrics").headers["content-type"].startswith("text/")


def metrics_of(live: Live) -> dict[str, float]:
    """The values of /metrics by name and labels; every name has a type."""
    lines = live.get("/metrics").body.decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    typed = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    names = {name.partition("{")[0] for name in values}
    ends = ("_bucket", "_sum", "_count")
    assert {next((n[: -len(e)] for e in ends if n.endswith(e)), n) for n in names} <= typed
    return {name: float(value) for name, value in values.items()}
