"""The command `train --find-lr`: a learning-rate range test. Nothing is saved."""

from __future__ import annotations

import torch

from simplellm.app.console import write_json
from simplellm.app.interrupt import Interrupt
from simplellm.app.options import FindLrOptions
from simplellm.app.screen import Screen
from simplellm.app.subcommands.shared import (
    base_checkpoint,
    device_of,
    screen_of,
    settings_of,
    sources_of,
)
from simplellm.app.training_monitor import TrainingMonitor
from simplellm.app.training_run import stdin_source, training_context
from simplellm.checkpoint.run import Run
from simplellm.config.training import TrainConfig
from simplellm.training.distributed import World
from simplellm.training.lr_range_test import STEPS, RangeTest, find_rate
from simplellm.training.preparation import prepare_run

CURVE_COLUMNS = 40
SHOWN_EVERY = 4  # rates


def find_lr(options: FindLrOptions) -> int:
    """Show the curve of a range test and the learning rate that it suggests."""
    screen = screen_of(options)
    settings = {"max_steps": STEPS, "compile": "off", **settings_of(options)}
    sources = sources_of(options)
    base_folder = base_checkpoint(options, screen)
    device = device_of(options, screen)
    stdin = stdin_source(options, device)

    def test_on(torch_device: torch.device) -> tuple[TrainConfig, RangeTest]:
        with Interrupt() as interrupt, TrainingMonitor(screen, ()) as monitor:
            context = training_context(
                options, screen, torch_device, World(), monitor, interrupt.is_set,
                stdin(torch_device),
            )  # fmt: skip
            run = Run(options.checkpoints / "range-test")
            trainer, _ = prepare_run(sources, settings, run, context, base_folder)
            return trainer.config, find_rate(trainer)

    config, test = device.run(test_on)
    if options.json:
        write_json(
            {"learning_rates": test.rates, "losses": test.losses, "suggestion": test.suggestion}
        )
        return 0
    _show_curve(screen, test)
    screen.line(f"suggestion: {_suggested_flags(config, test.suggestion)}")
    return 0


def _suggested_flags(config: TrainConfig, suggestion: float) -> str:
    flags = f"--learning-rate {suggestion:g}"
    if config.optimizer == "muon":
        muon_rate = config.muon_learning_rate * suggestion / config.learning_rate
        flags += f" --muon-learning-rate {muon_rate:.2g}"
    return flags


def _show_curve(screen: Screen, test: RangeTest) -> None:
    """A bar for every fourth rate: the shortest is the lowest loss, the longest the highest."""
    lowest = min(test.losses)
    span = max(test.losses) - lowest or 1
    pairs = list(zip(test.rates, test.losses, strict=True))[::SHOWN_EVERY]
    rows = [
        (
            f"{rate:.2g}",
            f"{loss:.3f}",
            "#" * (1 + round((CURVE_COLUMNS - 1) * (loss - lowest) / span)),
        )
        for rate, loss in pairs
    ]
    screen.table(("rate", "loss", ""), rows)
