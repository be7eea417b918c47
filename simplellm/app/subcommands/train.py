"""The command `train`: train a new run, or resume one."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path

from simplellm.app.console import write_json
from simplellm.app.interrupt import Interrupt
from simplellm.app.options import TrainOptions
from simplellm.app.screen import Screen
from simplellm.app.subcommands.shared import (
    device_of,
    is_recording,
    read_options,
    screen_of,
    settings_of,
    sources_of,
    starting_point,
    text_format,
)
from simplellm.app.training_run import run_training
from simplellm.base.packaged import BASE
from simplellm.checkpoint.find_runs import find_run, free_name
from simplellm.checkpoint.run import RunFolder
from simplellm.data.text_files import STDIN_NAME
from simplellm.errors import CheckpointError, SettingError
from simplellm.evaluation.advice import missing_figure
from simplellm.evaluation.picture.save import check_picture_path
from simplellm.training.repetition import RUN_FILE, Repetition
from simplellm.training.result import Result
from simplellm.training.resume import resume
from simplellm.training.resume_sources import NamedSources
from simplellm.training.start import start


def train(options: TrainOptions) -> int:
    screen = screen_of(options)
    if options.chart is not None:
        check_picture_path(options.chart)
    result, interrupt = _resume(options, screen) if options.resume else _start(options, screen)
    if options.json:
        write_json({name: value for name, value in asdict(result).items() if name != "stopped"})
    else:
        screen.line(
            f"{result.run}: {_quality(result)} at step {result.best_step} of {result.steps}, "
            f"{result.path}"
        )
    screen.notice(f"chat with it: {options.command(f'chat --run {result.run}')}")
    if not result.stopped and (words := _repeat(result)):
        screen.notice(f"repeat it: {options.command(words)}")
    return interrupt.exit_code


def _repeat(result: Result) -> str:
    """The command, without the program, that trains a run again; empty without a run.json."""
    run = RunFolder(Path(result.path).parent)
    try:
        texts = run.read_info()["texts"]
    except (CheckpointError, KeyError):
        return ""
    config = f"--config {shlex.quote(str(run.path / RUN_FILE))}"
    return f"train - {config} < TEXT" if STDIN_NAME in texts else f"train {config}"


def _quality(result: Result) -> str:
    run = RunFolder(Path(result.path).parent)
    tokens = (run.pointer("best") or {}).get("tokens")
    if missing := missing_figure(tokens, run.copied_share()):
        return f"no figure, because the validation text is {missing},"
    return f"{result.bits_per_byte:.3f} bits/byte (lower is better)"


def _start(options: TrainOptions, screen: Screen) -> tuple[Result, Interrupt]:
    if options.config and is_recording(options.config):
        return _repeated(options, Repetition.read(options.config, options.settings), screen)
    settings = settings_of(options)
    sources = sources_of(options)
    begin = starting_point(options, screen)
    return run_training(
        lambda context: start(
            sources, settings, options.name, context, begin.folder, may_choose_base=begin.is_chosen
        ),
        options,
        screen,
        device_of(options, screen),
        options.track,
    )


def _repeated(
    options: TrainOptions, repetition: Repetition, screen: Screen
) -> tuple[Result, Interrupt]:
    """Train a recorded run again, under another name."""
    sources = repetition.sources(
        options.texts, options.val_data, text_format(options), read_options(options)
    )
    begin = starting_point(options, screen)
    base_folder = repetition.base_folder if begin.is_chosen else begin.folder
    name = options.name or free_name(f"{repetition.name}-repeat", options.checkpoints)
    return run_training(
        lambda context: start(sources, {}, name, context, base_folder, repetition),
        options,
        screen,
        device_of(options, screen),
        options.track,
    )


def _resume(options: TrainOptions, screen: Screen) -> tuple[Result, Interrupt]:
    settings = settings_of(options)
    if options.name and options.run and options.name != options.run:
        raise SettingError(
            f"--resume continues one run, got --name {options.name} and --run {options.run}",
            fix="leave one of them out",
        )
    run, _ = find_run(options.name or options.run, options.checkpoints)
    begin = _named_start(options, screen)
    named = NamedSources(
        options.texts, options.val_data, text_format(options), begin, read_options(options)
    )
    return run_training(
        lambda context: resume(run, settings, context, (), options.accept_changes, named),
        options,
        screen,
        device_of(options, screen),
        options.track,
    )


def _named_start(options: TrainOptions, screen: Screen) -> str | None:
    """What --from names, to be compared with run.json; the base model need not be there."""
    return BASE if options.base == BASE else starting_point(options, screen).name
