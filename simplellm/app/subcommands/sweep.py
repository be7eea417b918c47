"""The command `sweep`: train with every combination of some settings, and compare."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import BinaryIO

from simplellm.app.comparison import figure, label, save_picture, shown
from simplellm.app.console import standard_input, write_json
from simplellm.app.interrupt import Interrupt
from simplellm.app.options import SettingValues, SweepOptions
from simplellm.app.screen import Screen
from simplellm.app.subcommands.shared import (
    DEFAULT_TEXT,
    StartingPoint,
    device_of,
    read_options,
    screen_of,
    starting_point,
    text_format,
)
from simplellm.app.training_run import run_training
from simplellm.base.packaged import BASE, base_folder, is_present
from simplellm.checkpoint.find_runs import free_name
from simplellm.checkpoint.importing.read_source import read_source
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.run_names import MAX_DERIVED_CHARACTERS
from simplellm.config.conversations import ConversationLengths
from simplellm.config.equal_settings import FirstRun
from simplellm.config.fine_tuning import contradiction
from simplellm.config.recipe import choose
from simplellm.config.setting import show
from simplellm.data.source import spool
from simplellm.data.text_files import STDIN_NAME
from simplellm.errors import (
    SettingError,
    SimpleLLMError,
    TextError,
    is_out_of_memory,
    out_of_memory,
)
from simplellm.evaluation.comparison import ComparedRun, cautions, differences
from simplellm.evaluation.picture.save import check_picture_path
from simplellm.storage.json_files import JsonObject
from simplellm.training.context import TrainingContext
from simplellm.training.result import Result
from simplellm.training.run_info import RunInfo
from simplellm.training.sources import Sources
from simplellm.training.start import start

MOST_RUNS = 100  # of one sweep
MOST_STEM_CHARACTERS = 20  # of the text's name in the name of a run
FIGURES = ("bits_per_byte", "val_loss", "best_step", "steps", "parameters", "train_seconds")
JSON_FIGURES = (
    "run",
    "path",
    "steps",
    "best_step",
    "val_loss",
    "bits_per_byte",
    "train_seconds",
    "parameters",
)


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep: its settings in the grid, its result, and the signals that arrived."""

    settings: SettingValues
    result: Result
    interrupt: Interrupt


def sweep(options: SweepOptions) -> int:
    """Train a run with each combination of the values in the grid; show the best run first."""
    screen = screen_of(options)
    if options.chart is not None:
        check_picture_path(options.chart)
    combinations = _combinations(options)
    if len(combinations) == 1:
        screen.notice(
            "one combination: there is nothing to compare; "
            "separate values by commas, such as --learning-rate 1e-3,3e-3"
        )
    finished: list[SweepRun] = []
    try:
        code = _train_all(combinations, finished, options, screen)
    finally:  # also when a signal ends the program
        if finished:
            finished.sort(key=lambda row: row.result.bits_per_byte)
            _show(finished, options, screen)
    return code


def _train_all(
    combinations: list[SettingValues],
    finished: list[SweepRun],
    options: SweepOptions,
    screen: Screen,
) -> int:
    """Train the runs in turn and append them to `finished`; returns the exit code of the sweep.

    A run that fails is reported, and the others are trained nevertheless, unless it is the same
    error of the text again: no setting changes that.
    """
    code = 0
    text_errors: set[str] = set()
    for row in _train_each(combinations, options, screen):
        if isinstance(row, SimpleLLMError):
            code = row.exit_code
            if str(row) in text_errors:
                break
            screen.error(row)
            text_errors |= {str(row)} if isinstance(row, TextError) else set()
        elif row.interrupt.is_set():
            code = row.interrupt.exit_code
            break
        else:
            finished.append(row)
    if code:
        screen.notice(f"{len(finished)} of {len(combinations)} runs finished")
    return code


# ---------------------------------------------------------------- the runs


def _swept(options: SweepOptions) -> list[str]:
    """The settings that have several values."""
    return [name for name, values in options.grid.items() if len(values) > 1]


def _texts(options: SweepOptions) -> tuple[str, ...]:
    return options.texts or (str(DEFAULT_TEXT),)


def _combinations(options: SweepOptions) -> list[SettingValues]:
    """The settings of each run; SettingError if there are too many, or if one is not allowed."""
    products = itertools.product(*options.grid.values())
    combinations = [dict(zip(options.grid, values, strict=True)) for values in products]
    if len(combinations) > MOST_RUNS:
        raise SettingError(
            f"a sweep has at most {MOST_RUNS} runs, got {len(combinations)}",
            fix="give fewer values",
        )
    base = read_source(base_folder()).config if options.base == BASE else None
    for settings in combinations:
        choose(0, settings, base)  # refuses a wrong combination before the first training
    return list(combinations)


def _train_each(
    combinations: list[SettingValues], options: SweepOptions, screen: Screen
) -> Iterator[SweepRun | SimpleLLMError]:
    """Train the runs in turn; yields a run, or why it failed.

    What the grid does not name is as in the first run that has finished.
    """
    swept = _swept(options)
    sources = Sources(
        _texts(options), options.val_data, text_format(options), reading=read_options(options)
    )
    own_budget = replace(options, started_at=None)  # the budget of each run counts from its start
    stdin = spool(standard_input()) if options.reads_stdin and len(combinations) > 1 else None
    first: FirstRun | None = None
    begin = _starting_point(combinations, options, screen)
    for number, settings in enumerate(combinations, 1):
        values = ", ".join(f"{name} {show(settings[name])}" for name in swept)
        screen.notice(f"run {number} of {len(combinations)}{': ' if values else ''}{values}")
        if first and (overruled := first.overruled(settings)):
            screen.notice(f"same as in the first run: {', '.join(overruled)}")
        equalized = first.equalized(settings) if first else settings
        name = _run_name(_texts(options)[0], settings, swept, options.checkpoints)
        job = partial(_train, sources, equalized, name, stdin, begin)
        try:
            trained = run_training(job, own_budget, screen, device_of(options, screen))
        except (SimpleLLMError, MemoryError, RuntimeError, ValueError) as error:
            yield _reported(error)
            continue
        yield SweepRun(settings, *trained)
        if first is None:
            first, begin = _first_run(trained[0], options)


def _reported(error: Exception) -> SimpleLLMError:
    """The error to report for a failed run; a bug is raised again."""
    if isinstance(error, SimpleLLMError):
        return error
    if not is_out_of_memory(error):
        raise error
    return out_of_memory(error)


def _train(
    sources: Sources,
    settings: SettingValues,
    name: str,
    stdin: BinaryIO | None,
    begin: StartingPoint,
    context: TrainingContext,
) -> Result:
    """Train one run. `stdin`: a copy of standard input, which every run reads from its start."""
    if stdin is not None:
        stdin.seek(0)
        context = replace(context, stdin=stdin)
    return start(sources, settings, name, context, begin.folder, may_choose_base=begin.is_chosen)


def _run_name(text: str, settings: SettingValues, swept: list[str], checkpoints: Path) -> str:
    """A free name that says what differs: `sweep-TEXT-dropout-0.1-seed-2`."""
    stem = f"sweep-{'stdin' if text == STDIN_NAME else Path(text).stem}"
    differing = "-".join(f"{name}-{show(settings[name])}" for name in swept)
    if len(stem) + len(differing) >= MAX_DERIVED_CHARACTERS:
        stem = stem[: len("sweep-") + MOST_STEM_CHARACTERS].rstrip("-_.")
    if len(stem) + len(differing) >= MAX_DERIVED_CHARACTERS:
        differing = "-".join(show(settings[name]) for name in swept)
    return free_name(f"{stem}-{differing}", checkpoints)


def _starting_point(
    combinations: list[SettingValues], options: SweepOptions, screen: Screen
) -> StartingPoint:
    """Of the first run; random weights where a run of the sweep cannot use the base model."""
    begin = starting_point(options, screen)
    if not begin.is_chosen or not is_present():
        return begin
    base = read_source(base_folder()).config
    for settings in combinations:
        if why := contradiction(base, settings):
            screen.notice(f"every run starts from random weights: {why}")
            return StartingPoint()
    return begin


def _first_run(result: Result, options: SweepOptions) -> tuple[FirstRun, StartingPoint]:
    """The first run, and what the others start from: the same as it."""
    info = RunInfo.read(RunFolder(Path(result.path).parent))
    values = {**info.model.to_mapping(), **info.training.to_mapping()}
    steps = options.grid.get("max_steps", ())
    has_fixed_steps = info.training.budget is None and len(steps) == 1
    folder = base_folder() if info.facts["from"] == BASE else None
    base = read_source(folder).config if folder else None
    chats = info.facts.get("conversations")
    lengths = ConversationLengths(**chats["lengths"]) if chats else None
    first = FirstRun(values, info.facts["corpus_bytes"], has_fixed_steps, base, lengths)
    return first, StartingPoint(folder)


# ---------------------------------------------------------------- the comparison


def _show(rows: list[SweepRun], options: SweepOptions, screen: Screen) -> None:
    runs = [ComparedRun.read(RunFolder(Path(row.result.path).parent)) for row in rows]
    swept = _swept(options)
    differing = {name: values for name, values in differences(runs).items() if name not in swept}
    stem = _free_picture_name(f"sweep-{Path(_texts(options)[0]).stem}", options.checkpoints)
    path = options.chart or options.checkpoints / f"{stem}.svg"
    picture = save_picture(runs, path, stem, screen)
    if options.json:
        by_run = [{name: values[i] for name, values in differing.items()} for i in range(len(rows))]
        write_json([_to_json(row, own, picture) for row, own in zip(rows, by_run, strict=True)])
        return
    headers = (*swept, *differing, *map(label, FIGURES), "run")
    cells = [
        (
            *(show(row.settings[name]) for name in swept),
            *(shown(name, values[i]) for name, values in differing.items()),
            *(figure(name, getattr(row.result, name)) for name in FIGURES),
            row.result.run,
        )
        for i, row in enumerate(rows)
    ]
    screen.table(headers, cells)
    screen.notice(
        "the best first: bits/byte and loss (nats per token) on the validation text, "
        "lower is better"
    )
    if differing:
        screen.notice(
            f"{', '.join(differing)}: not named in the sweep, but different; "
            "they follow from the settings that differ, or from the time that a run took"
        )
    if swept == ["seed"] and len(rows) > 1:
        figures = [row.result.bits_per_byte for row in rows]
        screen.notice(
            f"bits/byte over {len(rows)} seeds: mean {mean(figures):.3f}, "
            f"standard deviation {stdev(figures):.3f}"
        )
    for caution in cautions(runs):
        screen.notice(caution)


def _free_picture_name(stem: str, checkpoints: Path) -> str:
    """`stem`, with a number appended where a picture has that name."""
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return next(name for name in names if not (checkpoints / f"{name}.svg").exists())


def _to_json(row: SweepRun, differing: JsonObject, picture: str | None) -> JsonObject:
    figures = {name: getattr(row.result, name) for name in JSON_FIGURES}
    return {**differing, **row.settings, **figures, "loss_svg": picture}
