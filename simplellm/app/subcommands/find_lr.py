"""The command `train --find-lr`: a learning-rate range test. No run is written."""

from __future__ import annotations

from pathlib import Path

import torch

from simplellm.app.console import write_json
from simplellm.app.interrupt import Interrupt
from simplellm.app.options import FindLrOptions
from simplellm.app.screen import Screen
from simplellm.app.subcommands.shared import (
    device_of,
    screen_of,
    settings_of,
    sources_of,
    starting_point,
)
from simplellm.app.training_monitor import TrainingMonitor
from simplellm.app.training_run import stdin_source, training_context
from simplellm.checkpoint.run import RunFolder
from simplellm.config.training import TrainConfig
from simplellm.evaluation.chart import range_test_svg
from simplellm.evaluation.picture.save import check_picture_path, save_picture
from simplellm.training.distributed import World
from simplellm.training.lr_range_test import STEPS, RangeTest, find_rate
from simplellm.training.preparation import Attempt, prepare_run

CURVE_COLUMNS = 40
SHOWN_EVERY = 4  # rates


def find_lr(options: FindLrOptions) -> int:
    """Show the curve of a range test and the learning rate that it suggests."""
    screen = screen_of(options)
    if options.chart is not None:
        check_picture_path(options.chart)
    settings = {"max_steps": STEPS, "compile": "off", **settings_of(options)}
    sources = sources_of(options)
    begin = starting_point(options, screen)
    device = device_of(options, screen)
    stdin = stdin_source(options, device)

    def test_on(torch_device: torch.device) -> tuple[TrainConfig, RangeTest]:
        with Interrupt() as interrupt, TrainingMonitor(screen, ()) as monitor:
            context = training_context(
                options, screen, torch_device, World(), monitor, interrupt.is_set,
                stdin(torch_device),
            )  # fmt: skip
            run = RunFolder(options.checkpoints / "range-test")
            attempt = Attempt(may_choose_base=begin.is_chosen)
            trainer, _ = prepare_run(sources, settings, run, context, begin.folder, attempt)
            return trainer.config, find_rate(trainer)

    config, test = device.run(test_on)
    if options.chart is not None:
        _save_chart(options.chart, config, test, screen)
    if options.json:
        write_json(
            {"learning_rates": test.rates, "losses": test.losses, "suggestion": test.suggestion}
        )
        return 0
    _show_curve(screen, test)
    for line in explanation(config, test):
        screen.notice(line)
    screen.line(f"suggestion: {_suggested_flags(config, test.suggestion)}")
    return 0


def _save_chart(path: Path, config: TrainConfig, test: RangeTest, screen: Screen) -> None:
    svg = range_test_svg(test.rates, test.losses, test.suggestion, _muon_ratio(config))
    save_picture(path, svg, "learning-rate range test")
    screen.notice(f"curve of the range test: {path}")


def _muon_ratio(config: TrainConfig) -> float | None:
    """Muon's rate divided by AdamW's, which the test keeps; None without Muon."""
    if config.optimizer != "muon":
        return None
    return config.muon_learning_rate / config.learning_rate


def explanation(config: TrainConfig, test: RangeTest) -> list[str]:
    """What the curve shows, why this rate is suggested, and which optimizer has which rate."""
    lines = [
        "the loss (nats per token, smoothed, lower is better) while the learning rate rises from "
        f"step to step, from {test.rates[0]:.2g} to {test.rates[-1]:.2g}",
        f"suggested is the rate at which the loss fell fastest, {test.suggestion:g}: lower rates "
        "learn more slowly, and far above it the loss rises",
    ]
    ratio = _muon_ratio(config)
    if ratio is None:
        return [*lines, "--learning-rate is the rate of AdamW, which trains all weights"]
    return [
        *lines,
        "--learning-rate is the rate of AdamW (embeddings, norms and biases), shown in the curve; "
        "--muon-learning-rate is that of Muon (the matrices of the blocks), in this test always "
        f"{ratio:.3g} times as high",
    ]


def _suggested_flags(config: TrainConfig, suggestion: float) -> str:
    flags = f"--learning-rate {suggestion:g}"
    ratio = _muon_ratio(config)
    return flags if ratio is None else f"{flags} --muon-learning-rate {ratio * suggestion:.2g}"


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
