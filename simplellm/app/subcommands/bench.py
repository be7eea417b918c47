"""The command `bench`: tokens per second of training and of generation on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from simplellm.app.console import write_json
from simplellm.app.options import BenchOptions, SettingValues
from simplellm.app.subcommands.shared import device_of, screen_of
from simplellm.checkpoint.find_runs import find_checkpoint
from simplellm.checkpoint.step_folder import open_model
from simplellm.config.model import ModelConfig
from simplellm.config.sampling import SamplingParams
from simplellm.config.setting import Settings, flag_of
from simplellm.config.training import TrainConfig
from simplellm.device import choose_precision, has_fast_bf16
from simplellm.errors import Notice, SettingError
from simplellm.evaluation.bench_model import adjustments, bench_model
from simplellm.evaluation.benchmark import (
    Benchmark,
    bench_generate,
    bench_train,
    most_new_tokens,
)
from simplellm.model.transformer import SimpleLLM
from simplellm.training.plan import why_not_compiled

TRAINING: SettingValues = {"optimizer": "adamw", "batch_size": 12}
GENERATION: SettingValues = {"block_size": 256}
NEW_TOKENS = 64  # of a reply of a trained model, which may be large
MEASURED_TRAINING = (  # the other settings of training do not change a step of `bench train`
    "batch_size", "optimizer", "learning_rate", "muon_learning_rate", "weight_decay", "beta1",
    "beta2", "grad_clip", "compile", "precision", "seed",
)  # fmt: skip
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
    model = _trained(options, notice, device)
    model_config = model.config if model else _model(options, GENERATION, notice)
    _report_unused(options, (), notice)
    usual = model_config.block_size if model is None else NEW_TOKENS
    defaults = {"max_new_tokens": min(usual, model_config.block_size)}
    params = SamplingParams(**{**defaults, **options.sampling})
    most = most_new_tokens(model_config)
    if options.sampling.get("max_new_tokens", 0) > most:
        notice(f"replies have {most} new tokens: more do not fit block_size")
    if params.stop:
        notice("stop is not measured: every reply has the same length")
    is_int8 = options.quantize == "int8"
    measured = replace(params, stop=())
    return bench_generate(model_config, device, measured, options.versus, is_int8, model=model)


def _trained(options: BenchOptions, notice: Notice, device: torch.device) -> SimpleLLM | None:
    """The model of --run; None without it. SettingError for settings of another model."""
    if options.run is None:
        return None
    given = next((name for name in options.settings if name in ModelConfig.names()), None)
    if given is not None:
        raise SettingError(
            f"bench --run measures a trained model, got {flag_of(given)}",
            fix="leave --run or the flag out",
        )
    folder = find_checkpoint(options.run, options.checkpoints, notice)
    return open_model(folder, device, options.context).model


def _train(options: BenchOptions, notice: Notice, device: torch.device) -> Benchmark:
    """Measure in the execution mode that a long `train` would choose."""
    model_config = _model(options, {}, notice)
    _report_unused(options, MEASURED_TRAINING, notice)
    config = TrainConfig(**_only(TrainConfig, {**TRAINING, **options.settings}))
    if options.versus and config.optimizer != "adamw":
        notice(f"{options.versus} trains with AdamW, not with {config.optimizer}")
    if options.versus and model_config.dropout and model_config.architecture != "gpt2":
        notice(f"{options.versus} has no dropout for {model_config.architecture}")
    fastest = _fastest(config, model_config, device, notice)
    return bench_train(model_config, fastest, device, fastest.precision, options.versus)


def _model(options: BenchOptions, defaults: SettingValues, notice: Notice) -> ModelConfig:
    config = bench_model(options.settings, defaults)
    if adjusted := adjustments(config, options.settings):
        notice(f"to fit the given shape: {', '.join(adjusted)}")
    return config if options.context is None else config.with_context(options.context)


def _report_unused(options: BenchOptions, used: Sequence[str], notice: Notice) -> None:
    """Name the given settings of training that this benchmark does not use."""
    known = [*ModelConfig.names(), *used, "seed"]
    unused = [name for name in options.settings if name not in known]
    if unused:
        notice(f"bench {options.what} does not use {', '.join(unused)}")


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
