"""The commands that try things out: bench, sweep, and the learning-rate range test of train."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from simplellm.app.actions import (
    DEFAULT_TEXT,
    Options,
    base_of,
    folder_of,
    given_of,
    screen_of,
    sources_of,
)
from simplellm.app.attempt import on_device, stdin_of, training_context, watched
from simplellm.app.console import write_json
from simplellm.app.interrupt import Interrupt
from simplellm.app.render import Screen
from simplellm.app.watch import Watch
from simplellm.checkpoint.find_runs import free_name
from simplellm.checkpoint.run import Run
from simplellm.config.model import ModelConfig
from simplellm.config.recipe import choose
from simplellm.config.sampling import SamplingParams
from simplellm.config.setting import show
from simplellm.config.training import TrainConfig
from simplellm.device import choose_precision, has_fast_bf16
from simplellm.errors import SettingError
from simplellm.evaluation.benchmark import Benchmark, bench_generate, bench_train
from simplellm.training.context import TrainingContext
from simplellm.training.distributed import World
from simplellm.training.job import prepare_run, start
from simplellm.training.lr_range_test import STEPS, RangeTest, find_rate
from simplellm.training.plan import why_not_compiled
from simplellm.training.result import Result
from simplellm.training.run_info import Sources

BENCH_MODEL = {
    "architecture": "gpt2",
    "n_layer": 4,
    "n_head": 4,
    "n_embd": 128,
    "block_size": 64,
    "vocab_size": 512,
}
BENCH_TRAINING = {"optimizer": "adamw", "batch_size": 12}
BENCH_BLOCK_WHEN_GENERATING = 256
MOST_RUNS = 100  # of one sweep


def bench(options: Options) -> int:
    """Tokens per second of training steps, or of replies, on this machine."""
    screen, given = screen_of(options), options["given"]
    is_training = options["what"] == "train"
    shape = (
        BENCH_MODEL | ({} if is_training else {"block_size": BENCH_BLOCK_WHEN_GENERATING}) | given
    )
    model_config = ModelConfig(
        **{name: value for name, value in shape.items() if name in ModelConfig.names()}
    )
    if is_training:
        training = {
            name: value
            for name, value in (BENCH_TRAINING | given).items()
            if name in TrainConfig.names()
        }
        training_config = TrainConfig(**training)

        def job(device: torch.device) -> Benchmark:
            return _bench_train(screen, model_config, training_config, device, options["versus"])

    else:
        sampling = {"max_new_tokens": model_config.block_size} | options["sampling"]
        params, is_int8 = SamplingParams(**sampling), options["quantize"] == "int8"

        def job(device: torch.device) -> Benchmark:
            return bench_generate(model_config, device, params, options["versus"], is_int8)

    measured = on_device(options, screen.notice, job)
    if options["json"]:
        write_json(measured.to_mapping())
    else:
        screen.table(
            ("", ""),
            [
                (name.replace("_", " "), _figure(value))
                for name, value in measured.to_mapping().items()
            ],
        )
    return 0


def _bench_train(
    screen: Screen,
    model_config: ModelConfig,
    config: TrainConfig,
    device: torch.device,
    versus: str | None,
) -> Benchmark:
    """As a long run of `train` takes its steps: in the faster number format, and compiled where that is faster still."""

    def speed(way: TrainConfig) -> float:
        return bench_train(
            model_config, way, device, way.precision, None, turns=3
        ).tokens_per_second

    formats = [choose_precision(device, config.precision)]
    if config.precision == "auto" and has_fast_bf16(device):
        formats.append("bf16")
    fastest = max(
        (replace(config, precision=precision, compile="off") for precision in formats), key=speed
    )
    if config.compile != "off":
        compiled = replace(fastest, compile="on")
        try:
            is_faster = speed(compiled) > speed(fastest)
        except Exception as error:  # whatever a compiler, or the lack of one, may raise
            screen.notice(why_not_compiled(error))
        else:
            fastest = compiled if is_faster or config.compile == "on" else fastest
    return bench_train(model_config, fastest, device, fastest.precision, versus)


def sweep(options: Options) -> int:
    """Train with every combination of the settings that were given several values; the best first."""
    screen, grid = screen_of(options), options["given"]
    swept = [name for name, values in grid.items() if len(values) > 1]
    combinations = [
        dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
    ]
    if len(combinations) > MOST_RUNS:
        raise SettingError(
            f"a sweep is of {MOST_RUNS} runs at most, got {len(combinations)}",
            fix="give fewer values",
        )
    for given in combinations:
        choose(0, given)  # one that cannot be is said before any is trained
    texts = tuple(options["texts"]) or (str(DEFAULT_TEXT),)
    rows: list[tuple[dict[str, Any], Result]] = []
    for number, given in enumerate(combinations, 1):
        screen.notice(
            f"run {number} of {len(combinations)}: "
            + ", ".join(f"{name} {show(given[name])}" for name in swept)
        )
        name = free_name(f"sweep-{Path(texts[0]).stem}", folder_of(options))
        job = partial(_start, Sources(texts), given, name)
        result, interrupt = watched(
            job, {**options, "started_at": None}, screen
        )  # each run has a budget of its own
        rows.append((given, result))
        if interrupt.is_set():
            return interrupt.exit_code
    rows.sort(key=lambda row: row[1].bits_per_byte)
    if options["json"]:
        figures = (
            "run",
            "path",
            "steps",
            "best_step",
            "val_loss",
            "bits_per_byte",
            "train_seconds",
        )
        write_json(
            [
                {**given, **{name: getattr(result, name) for name in figures}}
                for given, result in rows
            ]
        )
    else:
        headers = (*swept, "bits/byte", "loss", "best step", "steps", "run")
        screen.table(
            headers,
            [(*(show(given[name]) for name in swept), *_row(result)) for given, result in rows],
        )
    return 0


def _start(sources: Sources, given: dict[str, Any], name: str, context: TrainingContext) -> Result:
    return start(sources, given, name, context)


def _row(result: Result) -> tuple[str, ...]:
    steps = (str(result.best_step), str(result.steps))
    return (f"{result.bits_per_byte:.3f}", f"{result.val_loss:.3f}", *steps, result.run)


def find_lr(options: Options) -> int:
    """`train --find-lr`: the curve of a range test and the rate it suggests. Nothing is kept."""
    screen = screen_of(options)
    given = {"max_steps": STEPS, "compile": "off", **given_of(options)}
    sources, base_folder, stdin = sources_of(options), base_of(options, screen), stdin_of(options)

    def job(device: torch.device) -> tuple[TrainConfig, RangeTest]:
        with Interrupt() as interrupt, Watch(screen, ()) as watch:
            context = training_context(
                options, screen, device, World(), watch, interrupt.is_set, stdin(device)
            )
            run = Run(folder_of(options) / "range-test")
            trainer, _ = prepare_run(sources, given, run, context, base_folder)
            return trainer.config, find_rate(trainer)

    config, test = on_device(options, screen.notice, job)
    if options["json"]:
        write_json(
            {"learning_rates": test.rates, "losses": test.losses, "suggestion": test.suggestion}
        )
        return 0
    _show_curve(screen, test.rates, test.losses)
    factor = test.suggestion / config.learning_rate
    muon = (
        f" --muon-learning-rate {config.muon_learning_rate * factor:.2g}"
        if config.optimizer == "muon"
        else ""
    )
    screen.line(f"suggestion: --learning-rate {test.suggestion:g}{muon}")
    return 0


def _show_curve(
    screen: Screen, rates: tuple[float, ...], losses: tuple[float, ...], bars: int = 40
) -> None:
    """A bar for every fourth rate: the shortest is the lowest loss, the longest the highest."""
    lowest, highest = min(losses), max(losses)
    rows = [
        (
            f"{rate:.2g}",
            f"{loss:.3f}",
            "#" * (1 + round((bars - 1) * (loss - lowest) / (highest - lowest or 1))),
        )
        for rate, loss in list(zip(rates, losses, strict=True))[::4]
    ]
    screen.table(("rate", "loss", ""), rows)


def _figure(value: Any) -> str:
    return (
        f"{value:,.4g}"
        if isinstance(value, float) and value < 1000
        else f"{value:,.0f}"
        if isinstance(value, float | int)
        else str(value)
    )
