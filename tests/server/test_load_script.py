"""Statistics of bench/serving.py, which measures the server under load."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "serving.py"


@pytest.fixture(scope="module")
def serving() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("bench_serving", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_only_the_share_of_a_reply_that_arrives_in_the_turn_counts(serving: ModuleType) -> None:
    inside = serving.Reply(0.0, (1.0, 2.0), 2)
    half = serving.Reply(0.0, (9.0, 9.5, 10.0, 11.0), 8)  # two tokens in each event
    empty = serving.Reply(0.0, (), 1)
    assert serving.tokens_between([inside, half, empty], 0.0, 10.0) == 2 + 4


def test_a_stream_gives_the_first_event_with_text_and_the_tokens_of_the_usage(
    serving: ModuleType,
) -> None:
    usage = {"completion_tokens": 3}
    events = [
        {"choices": [{"text": ""}]},
        {"choices": [{"text": "a"}]},
        {"choices": [{"text": "bc"}], "usage": None},
        {"choices": [], "usage": usage},
    ]
    lines = [f"data: {json.dumps(event)}\n".encode() for event in events]
    lines = [b": a comment\n", *lines, b"\n", b"data: [DONE]\n"]
    reply = serving.read_reply(0.5, list(enumerate(lines)))
    assert reply.text_at == (2, 3)
    assert reply.first_token_seconds == 1.5
    assert reply.tokens == 3


@pytest.mark.parametrize(
    ("event", "message"),
    [({"choices": [{"text": "a"}]}, "without its usage"), ({"error": "it broke"}, "it broke")],
)
def test_a_broken_stream_ends_the_measurement(
    serving: ModuleType, event: dict[str, object], message: str
) -> None:
    with pytest.raises(SystemExit, match=message):
        serving.read_reply(0.0, [(1.0, f"data: {json.dumps(event)}\n".encode())])


def test_quantiles_are_interpolated(serving: ModuleType) -> None:
    assert serving.quantile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.5
    assert serving.quantile(list(range(101)), 0.95) == 95
    assert serving.quantile([7.0], 0.95) == 7.0


def test_speed_is_the_median_of_the_rounds_and_waiting_that_of_all_requests(
    serving: ModuleType,
) -> None:
    turns = [
        serving.Turn("s", clients, speed, firsts, 0.1)
        for clients, speed, firsts in [
            (1, 10.0, (1.0,)), (4, 30.0, (1.0, 2.0)), (1, 50.0, (3.0, 5.0)),
            (4, 25.0, (3.0,)), (1, 20.0, (1.0, 1.0)), (4, 99.0, ()),
        ]
    ]  # fmt: skip
    alone, four = serving.figures(turns)
    assert (alone.tokens_per_second, four.tokens_per_second) == (20.0, 30.0)
    assert (alone.first_token_p50, alone.requests) == (1.0, 5)
    assert (four.first_token_p50, four.requests) == (2.0, 3)
    assert "| s | 4 | 30.0 | 1.50 | 2,000 ms | 2,900 ms |" in serving.table([alone, four])


def test_prompts_differ_within_and_between_clients(serving: ModuleType) -> None:
    texts = [
        text for seed in range(8) for text, _ in zip(serving.prompts(seed), range(8), strict=False)
    ]
    assert len(set(texts)) == 64
