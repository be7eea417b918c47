"""The command `train`: train a new run, or resume one."""

from __future__ import annotations

from dataclasses import asdict

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
            f"{result.run}: {result.bits_per_byte:.3f} bits/byte "
            f"at step {result.best_step} of {result.steps}, {result.path}"
        )
    screen.notice(f"chat with it: {options.command(f'chat --run {result.run}')}")
    return interrupt.exit_code


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
