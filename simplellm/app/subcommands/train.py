"""The command `train`: train a new run, or resume one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from simplellm.app.console import write_json
from simplellm.app.interrupt import Interrupt
from simplellm.app.options import TrainOptions
from simplellm.app.screen import Screen
from simplellm.app.subcommands.shared import (
    base_checkpoint,
    device_of,
    screen_of,
    settings_of,
    sources_of,
)
from simplellm.app.training_run import run_training
from simplellm.checkpoint.find_runs import find_run
from simplellm.checkpoint.run import Run
from simplellm.evaluation.advice import is_too_short
from simplellm.training.result import Result
from simplellm.training.resume import resume
from simplellm.training.start import start


def train(options: TrainOptions) -> int:
    screen = screen_of(options)
    result, interrupt = _resume(options, screen) if options.resume else _start(options, screen)
    if options.json:
        write_json({name: value for name, value in asdict(result).items() if name != "stopped"})
    else:
        screen.line(
            f"{result.run}: {_quality(result)} at step {result.best_step} of {result.steps}, "
            f"{result.path}"
        )
    screen.notice(f"chat with it: {options.command(f'chat --run {result.run}')}")
    return interrupt.exit_code


def _quality(result: Result) -> str:
    best = Run(Path(result.path).parent).pointer("best") or {}
    if is_too_short(best.get("tokens")):
        return "no figure, because the validation text is too short,"
    return f"{result.bits_per_byte:.3f} bits/byte (lower is better)"


def _start(options: TrainOptions, screen: Screen) -> tuple[Result, Interrupt]:
    settings = settings_of(options)
    sources = sources_of(options)
    base_folder = base_checkpoint(options, screen)
    return run_training(
        lambda context: start(sources, settings, options.name, context, base_folder),
        options,
        screen,
        device_of(options, screen),
        options.track,
    )


def _resume(options: TrainOptions, screen: Screen) -> tuple[Result, Interrupt]:
    settings = settings_of(options)
    run, _ = find_run(options.name or options.run, options.checkpoints)
    return run_training(
        lambda context: resume(run, settings, context, options.texts, options.accept_changes),
        options,
        screen,
        device_of(options, screen),
        options.track,
    )
