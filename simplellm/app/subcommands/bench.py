"""The command `bench`: tokens per second of training and of generation on this machine."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from simplellm.app.console import write_json
from simplellm.app.options import BenchOptions, SettingValues
from simplellm.app.subcommands.shared import device_of, screen_of
from simplellm.config.model import ModelConfig
from simplellm.config.sampling import SamplingParams
from simplellm.config.setting import Settings
from simplellm.config.training import TrainConfig
from simplellm.device import choose_precision, has_fast_bf16
from simplellm.errors import Notice
from simplellm.evaluation.benchmark import Benchmark, bench_generate, bench_train
from simplellm.training.plan import why_not_compiled

MODEL: SettingValues = {
    "architecture": "gpt2",
    "n_layer": 4,
    "n_head": 4,
    "n_embd": 128,
    "block_size": 64,
    "vocab_size": 512,
}
TRAINING: SettingValues = {"optimizer": "adamw", "batch_size": 12}
GENERATION: SettingValues = {"block_size": 256}
MEANINGS = {
    "tokens_per_second": "higher is better",
    "peak_memory_bytes": "lower is better",
    "model_flops_utilization": "share of the peak of the device, 0 to 1; higher is better",
    "versus_tokens_per_second": "of the other library",
    "ratio": "tokens per second relative to the other library; over 1: this program is faster",
}
PROBE_TURNS = 3  # measurements of each execution mode before the fastest is chosen


def bench(options: BenchOptions) -> int:
    screen = screen_of(options)
    job = _train if options.what == "train" else _generate
    measured = device_of(options, screen).run(partial(job, options, screen.notice))
    if options.json:
        write_json(measured.to_mapping())
    else:
        figures = measured.to_mapping().items()
        screen.table(
            ("", "", ""),
            [
                (name.replace("_", " "), _figure(value), MEANINGS.get(name, ""))
                for name, value in figures
            ],
        )
    return 0


def _generate(options: BenchOptions, notice: Notice, device: torch.device) -> Benchmark:
    model_config = ModelConfig(**_only(ModelConfig, {**MODEL, **GENERATION, **options.settings}))
    defaults = {"max_new_tokens": model_config.block_size}
    params = SamplingParams(**{**defaults, **options.sampling})
    is_int8 = options.quantize == "int8"
    return bench_generate(model_config, device, params, options.versus, is_int8)


def _train(options: BenchOptions, notice: Notice, device: torch.device) -> Benchmark:
    """Measure in the execution mode that a long `train` would choose."""
    model_config = ModelConfig(**_only(ModelConfig, {**MODEL, **options.settings}))
    config = TrainConfig(**_only(TrainConfig, {**TRAINING, **options.settings}))
    fastest = _fastest(config, model_config, device, notice)
    return bench_train(model_config, fastest, device, fastest.precision, options.versus)


def _fastest(
    config: TrainConfig, model_config: ModelConfig, device: torch.device, notice: Notice
) -> TrainConfig:
    """`config` with the fastest precision, and compiled if that is faster or requested."""

    def speed(mode: TrainConfig) -> float:
        measured = bench_train(model_config, mode, device, mode.precision, None, turns=PROBE_TURNS)
        return measured.tokens_per_second

    precisions = [choose_precision(device, config.precision)]
    if config.precision == "auto" and has_fast_bf16(device):
        precisions.append("bf16")
    eager = [replace(config, precision=precision, compile="off") for precision in precisions]
    fastest = max(eager, key=speed)
    if config.compile == "off":
        return fastest
    compiled = replace(fastest, compile="on")
    try:
        is_faster = speed(compiled) > speed(fastest)
    except Exception as error:  # a compiler, or its absence, may raise anything
        notice(why_not_compiled(error))
        return fastest
    return compiled if is_faster or config.compile == "on" else fastest


def _only(config: type[Settings], values: SettingValues) -> dict[str, Any]:
    """The values that are settings of `config`."""
    return {name: value for name, value in values.items() if name in config.names()}


def _figure(value: Any) -> str:
    if isinstance(value, float) and value < 1000:
        return f"{value:,.4g}"
    return f"{value:,.0f}" if isinstance(value, float | int) else str(value)
