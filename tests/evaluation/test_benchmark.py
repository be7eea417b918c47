"""Benchmarks: measured figures, and a fair comparison with transformers."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import torch

from simplellm.app.cli import main
from simplellm.config.model import ModelConfig
from simplellm.config.sampling import SamplingParams
from simplellm.config.training import TrainConfig
from simplellm.evaluation import benchmark as bench
from simplellm.evaluation.bench_model import bench_model

CPU = torch.device("cpu")
SHAPE = [
    "--n-layer",
    "1",
    "--n-head",
    "2",
    "--n-embd",
    "16",
    "--block-size",
    "16",
    "--vocab-size",
    "300",
    "--device",
    "cpu",
]
TINY = ModelConfig(
    architecture="gpt2", n_layer=1, n_head=2, n_embd=16, block_size=16, vocab_size=300
)
KEYS = {"tokens_per_second", "parameters", "device", "dtype", "peak_memory_bytes"}
VERSUS = {"versus", "versus_tokens_per_second", "ratio"}
KINDS = {
    "train": ["train", *SHAPE, "--batch-size", "2", "--precision", "float32", "--compile", "off"],
    "generate": ["generate", *SHAPE, "--max-new-tokens", "4"],
}


@pytest.fixture(autouse=True)
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SECONDS_PER_TURN", 0.001)


@pytest.fixture
def measured(capsys: pytest.CaptureFixture[str]):
    def measured(*arguments: str) -> dict[str, Any]:
        assert main(["bench", *arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return measured


@pytest.mark.parametrize("kind", KINDS)
def test_json_has_the_keys_of_the_contract(measured, kind):
    figures = measured(*KINDS[kind])
    assert (
        set(figures) == KEYS
        and figures["tokens_per_second"] > 0
        and figures["peak_memory_bytes"] > 10**7
    )
    assert figures["dtype"] == "float32" and figures["device"].startswith("cpu")
    assert figures["parameters"] == sum(p.numel() for p in bench.SimpleLLM(TINY).parameters())


@pytest.mark.usefixtures("transformers")
@pytest.mark.parametrize("kind", KINDS)
def test_a_comparison_has_a_ratio(measured, kind):
    figures = measured(*KINDS[kind], "--versus", "transformers")
    assert set(figures) == KEYS | VERSUS and figures["versus"] == "transformers"
    assert figures["ratio"] > 0 and figures["versus_tokens_per_second"] > 0


def test_without_json_a_table_is_printed(capsys):
    assert main(["bench", *KINDS["train"]]) == 0
    out = capsys.readouterr().out
    assert "tokens per second" in out and "peak memory bytes" in out and "{" not in out


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--versus", "nothing"],
        ["train", "--n-embd", "30", "--n-head", "4"],
        ["dream"],
        [],
        ["train", "--precision", "fp16"],
    ],
)
def test_a_usage_error_has_at_most_two_lines(capsys, arguments):
    code = main(["bench", *arguments, "--device", "cpu"])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "") and err.startswith("error: ") and len(err.splitlines()) <= 2


def test_compiled_steps_are_reported_with_the_device(measured, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda block: block)
    assert measured(*KINDS["train"], "--compile", "on")["device"].endswith("float32, compiled")


@pytest.mark.parametrize(("gain", "is_compiled"), [(1.2, True), (0.8, False)])
def test_the_faster_of_compiled_and_eager_steps_is_reported(
    measured, monkeypatch, gain, is_compiled
):
    def bench_train(model: Any, config: TrainConfig, *_: Any, **__: Any) -> bench.Benchmark:
        suffix = ", compiled" if config.compile == "on" else ""
        return bench.Benchmark(
            100 * gain if suffix else 100.0, 1, "cpu" + suffix, config.precision, 1
        )

    monkeypatch.setattr("simplellm.app.subcommands.bench.bench_train", bench_train)
    assert measured("train", *SHAPE)["device"].endswith(", compiled") == is_compiled


def test_eager_steps_are_measured_if_compilation_fails(measured, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda block: {}[block])
    assert measured(*KINDS["train"], "--compile", "auto")["device"].endswith("float32")


def test_a_speed_is_tokens_per_second(monkeypatch):
    monkeypatch.setattr(bench, "SECONDS_PER_TURN", 0.05)

    def step() -> int:
        time.sleep(0.01)
        return 7

    assert 150 < bench._speed(step) <= 700  # a busy machine sleeps longer


def test_turns_alternate_and_the_ratio_is_the_median(monkeypatch):
    order: list[str] = []
    speeds = iter([100.0, 50.0, 90.0, 30.0, 80.0, 10.0])
    monkeypatch.setattr(bench, "_speed", lambda step: (step(), next(speeds))[1])
    model = bench.SimpleLLM(TINY)
    steps = [lambda name=name: order.append(name) or 1 for name in ("ours", "theirs")]
    comparison = bench._Comparison(steps[0], steps[1], "transformers", 3)
    result = comparison.measure(model, CPU, "float32")
    assert order[2 * bench.WARM_UP_TURNS :] == ["ours", "theirs"] * 3
    assert (result.tokens_per_second, result.versus_tokens_per_second, result.ratio) == (
        90.0,
        30.0,
        3.0,
    )


def test_both_implementations_give_the_same_logits(transformers):
    model = bench.SimpleLLM(TINY).init_weights(torch.Generator().manual_seed(0))
    block = torch.randint(300, (2, 17), generator=torch.Generator().manual_seed(0))
    hub_model = bench._hub_model(model, CPU).eval()
    assert isinstance(hub_model, transformers.GPT2LMHeadModel)
    torch.testing.assert_close(
        hub_model(block[:, :16]).logits, model(block[:, :16]), atol=1e-4, rtol=1e-3
    )


def test_a_step_counts_the_tokens_of_its_targets(monkeypatch):
    counted: list[int] = []
    monkeypatch.setattr(
        bench, "_take_turns", lambda step, other, turns: (counted.append(step()), ([1.0], []))[1]
    )
    bench.bench_train(TINY, TrainConfig(batch_size=3, optimizer="adamw"), CPU, "float32", None)
    bench.bench_generate(
        TINY, CPU, SamplingParams(temperature=0, max_new_tokens=5), None
    )  # a sampled reply may end early
    assert counted == [3 * 16, 5]


SHAPES = [
    {"n_kv_head": 3}, {"n_kv_head": 1}, {"n_head": 3}, {"n_embd": 30}, {"n_embd": 2},
    {"n_layer": 1}, {"n_inner": 7}, {"block_size": 2}, {"vocab_size": 257},
    {"tie_embeddings": False}, {"dropout": 0.5}, {"architecture": "modern"},
    {"architecture": "modern", "n_kv_head": 2}, {"n_head": 6, "n_kv_head": 3},
    {"architecture": "modern", "tie_embeddings": False, "n_inner": 9},
]  # fmt: skip


@pytest.mark.parametrize("given", SHAPES, ids=str)
def test_a_comparison_measures_one_shape_on_both_sides(transformers, given):
    config = bench_model(given, {})
    assert all(getattr(config, name) == value for name, value in given.items())
    model = bench.SimpleLLM(config).init_weights(torch.Generator().manual_seed(0)).eval()
    hub_model = bench._hub_model(model, CPU).eval()
    expected = {"gpt2": "GPT2LMHeadModel", "modern": "Qwen3ForCausalLM"}[config.architecture]
    assert isinstance(hub_model, getattr(transformers, expected))
    assert sum(p.numel() for p in hub_model.parameters()) == model.n_parameters
    ids = torch.arange(config.block_size)[None] % config.vocab_size
    torch.testing.assert_close(hub_model(ids).logits, model(ids), atol=1e-4, rtol=1e-3)


@pytest.mark.usefixtures("transformers")
@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        ("generate", ["--n-kv-head", "3"]),
        ("generate", ["--block-size", "2"]),
        ("generate", ["--num-beams", "2"]),
        ("generate", ["--min-p", "0.1", "--repetition-penalty", "2", "--top-k", "0"]),
        ("train", ["--n-kv-head", "3", "--dropout", "0.1"]),
    ],
)
def test_a_documented_flag_works_alone_in_a_comparison(measured, monkeypatch, kind, flags):
    monkeypatch.setattr(bench, "WARM_UP_TURNS", 1)
    short = ["--n-layer", "1", "--max-new-tokens", "3", "--device", "cpu", "--compile", "off"]
    figures = measured(kind, *short, "--precision", "float32", *flags, "--versus", "transformers")
    assert figures["ratio"] > 0


def test_what_follows_from_the_given_shape_and_what_is_not_measured_is_said(capsys, monkeypatch):
    one = bench.Benchmark(1.0, 1, "cpu", "float32", 1)
    for name in ("bench_train", "bench_generate"):
        monkeypatch.setattr(f"simplellm.app.subcommands.bench.{name}", lambda *_, **__: one)
    words = ["--n-kv-head", "3", "--device", "cpu", "--precision", "float32"]
    assert main(["bench", "train", *words, "--patience", "3"]) == 0
    err = capsys.readouterr().err
    assert "architecture modern, n_head 6, n_embd 132" in err and "does not use patience" in err
    versus = ["--versus", "transformers", "--optimizer", "muon", "--dropout", "0.1"]
    assert main(["bench", "train", *words, *versus]) == 0
    err = capsys.readouterr().err
    assert "trains with AdamW" in err and "no dropout for modern" in err
    assert main(["bench", "generate", "--max-new-tokens", "999", "--stop", "x"]) == 0
    err = capsys.readouterr().err
    assert "248 new tokens" in err and "stop is not measured" in err
