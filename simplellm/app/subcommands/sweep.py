"""The command `sweep`: train with every combination of some settings, and compare."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from simplellm.app.console import write_json
from simplellm.app.interrupt import Interrupt
from simplellm.app.options import SettingValues, SweepOptions
from simplellm.app.screen import Screen
from simplellm.app.subcommands.shared import DEFAULT_TEXT, device_of, screen_of
from simplellm.app.training_run import run_training
from simplellm.checkpoint.find_runs import free_name
from simplellm.config.recipe import choose
from simplellm.config.setting import show
from simplellm.errors import SettingError
from simplellm.storage.json_files import JsonObject
from simplellm.training.context import TrainingContext
from simplellm.training.result import Result
from simplellm.training.sources import Sources
from simplellm.training.start import start

MOST_RUNS = 100  # of one sweep
JSON_FIGURES = (
    "run",
    "path",
    "steps",
    "best_step",
    "val_loss",
    "bits_per_byte",
    "train_seconds",
)


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep: its settings, its result, and the signal that stopped it, if any."""

    settings: SettingValues
    result: Result
    interrupt: Interrupt


def sweep(options: SweepOptions) -> int:
    """Train a run with each combination of the values in the grid; show the best run first."""
    screen = screen_of(options)
    combinations = _combinations(options)
    rows: list[SweepRun] = []
    for row in _train_each(combinations, options, screen):
        if row.interrupt.is_set():
            return row.interrupt.exit_code
        rows.append(row)
    rows.sort(key=lambda row: row.result.bits_per_byte)
    if options.json:
        write_json([_to_json(row) for row in rows])
    else:
        swept = _swept(options)
        headers = (*swept, "bits/byte", "loss", "best step", "steps", "run")
        screen.table(headers, [_to_cells(row, swept) for row in rows])
        screen.notice(
            "the best first: bits/byte and loss (nats per token) on the validation text, "
            "lower is better"
        )
    return 0


def _swept(options: SweepOptions) -> list[str]:
    """The settings that have several values."""
    return [name for name, values in options.grid.items() if len(values) > 1]


def _combinations(options: SweepOptions) -> list[SettingValues]:
    """The settings of each run; SettingError if there are too many, or if one is not allowed."""
    products = itertools.product(*options.grid.values())
    combinations = [dict(zip(options.grid, values, strict=True)) for values in products]
    if len(combinations) > MOST_RUNS:
        raise SettingError(
            f"a sweep has at most {MOST_RUNS} runs, got {len(combinations)}",
            fix="give fewer values",
        )
    for settings in combinations:
        choose(0, settings)  # refuses a wrong combination before the first training
    return list(combinations)


def _train_each(
    combinations: list[SettingValues], options: SweepOptions, screen: Screen
) -> Iterator[SweepRun]:
    swept = _swept(options)
    texts = options.texts or (str(DEFAULT_TEXT),)
    own_budget = replace(options, started_at=None)  # the budget of each run counts from its start
    for number, settings in enumerate(combinations, 1):
        values = ", ".join(f"{name} {show(settings[name])}" for name in swept)
        screen.notice(f"run {number} of {len(combinations)}{': ' if values else ''}{values}")
        name = free_name(f"sweep-{Path(texts[0]).stem}", options.checkpoints)
        job = partial(_train, Sources(texts), settings, name)
        device = device_of(options, screen)
        yield SweepRun(settings, *run_training(job, own_budget, screen, device))


def _train(
    sources: Sources, settings: SettingValues, name: str, context: TrainingContext
) -> Result:
    return start(sources, settings, name, context)


def _to_json(row: SweepRun) -> JsonObject:
    return {**row.settings, **{name: getattr(row.result, name) for name in JSON_FIGURES}}


def _to_cells(row: SweepRun, swept: list[str]) -> tuple[str, ...]:
    result = row.result
    return (
        *(show(row.settings[name]) for name in swept),
        f"{result.bits_per_byte:.3f}",
        f"{result.val_loss:.3f}",
        str(result.best_step),
        str(result.steps),
        result.run,
    )
