"""Helpers of several commands: find and load a model, read a prompt, name the texts."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from simplellm.app.console import decoded, standard_input
from simplellm.app.device_fallback import DeviceFallback
from simplellm.app.options import (
    ModelOptions,
    Options,
    ReadingOptions,
    TextOptions,
    TrainingOptions,
)
from simplellm.app.prompt_text import notes_on, without_line_end
from simplellm.app.screen import Screen
from simplellm.base.packaged import BASE, NONE, base_folder
from simplellm.checkpoint.find_runs import find_checkpoint
from simplellm.checkpoint.step_folder import open_model
from simplellm.config.toml import read_toml
from simplellm.data.conversations.conversation import Turn
from simplellm.data.conversations.options import ReadOptions
from simplellm.data.conversations.request import parsed_request
from simplellm.data.source import TextFormat
from simplellm.data.text_files import STDIN_NAME
from simplellm.errors import SettingError, TextError
from simplellm.inference.quantize import quantize
from simplellm.inference.sampler import Sampler
from simplellm.training.run_info import start_name
from simplellm.training.sources import Sources

PACKAGE = Path(__file__).resolve().parents[2]
DEFAULT_TEXTS = [
    folder / "the-verdict.txt" for folder in (PACKAGE, PACKAGE.parent)
]  # in a wheel, in a clone
DEFAULT_TEXT = next((path for path in DEFAULT_TEXTS if path.is_file()), DEFAULT_TEXTS[-1])


def screen_of(options: Options) -> Screen:
    return Screen(color=options.color)


def device_of(options: Options, screen: Screen) -> DeviceFallback:
    return DeviceFallback(options.device, screen.notice)


# ---------------------------------------------------------------- models


def checkpoint_of(options: Options, screen: Screen) -> Path:
    """The checkpoint folder of --run: the best one of the newest run by default."""
    return find_checkpoint(options.run, options.checkpoints, screen.notice)


def load_sampler(folder: Path, device: torch.device, options: ModelOptions) -> Sampler:
    """A sampler of the checkpoint in `folder`, quantized if requested."""
    opened = open_model(folder, device, options.context)
    model = quantize(opened.model) if options.quantize == "int8" else opened.model
    stated, tokenizer = opened.generation, opened.tokenizer
    sampler = Sampler(model, tokenizer, stated.end_ids(tokenizer), stated.template(tokenizer))
    if device.type != "cpu":
        sampler.probe()  # a GPU that cannot run the model fails here, before any output
    return sampler


# ---------------------------------------------------------------- texts


def read_prompt(prompt: str, screen: Screen) -> str:
    """The text of --prompt by the rule of app/prompt_text.py; `-` reads standard input."""
    text = without_line_end(prompt_source(prompt))
    for note in notes_on(text):
        screen.notice(note)
    return text


def prompt_source(prompt: str) -> str:
    """The text of --prompt; `-` reads standard input."""
    return _read_stdin() if prompt == STDIN_NAME else prompt


def read_messages(name: str) -> list[Turn]:
    """The messages of a JSON file; `-` reads standard input. TextError says what is wrong."""
    if name == STDIN_NAME:
        return parsed_request(_read_stdin().removeprefix("\ufeff"), "standard input")
    try:
        text = Path(name).read_bytes().decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise TextError(
            f"cannot read {name}: {reason}", fix="name a JSON file with messages"
        ) from error
    return parsed_request(text, name)


def _read_stdin() -> str:
    stream = standard_input()
    if stream is None:
        raise TextError("there is no standard input to read", fix="--prompt TEXT")
    return decoded(stream.read(), sys.stdin.encoding)


def text_format(options: ReadingOptions) -> TextFormat:
    """How the text files of a command are read."""
    max_bad_share = options.max_bad_share if options.skip_bad else 0.0
    return TextFormat(options.encoding, options.text_key, max_bad_share)


def read_options(options: ReadingOptions) -> ReadOptions:
    """How conversations are read."""
    return ReadOptions(options.text_format, options.me, options.gap)


def sources_of(options: TrainingOptions) -> Sources:
    """The texts of a training; SettingError if there are none."""
    if not options.texts:
        raise SettingError("train needs a TEXT", fix="simplellm train my-text.txt")
    reading = read_options(options)
    return Sources(options.texts, options.val_data, text_format(options), reading=reading)


# ---------------------------------------------------------------- training


def settings_of(options: TrainingOptions) -> dict[str, Any]:
    """The settings of the TOML file --config, overridden by those of the flags."""
    if options.config and is_recording(options.config):
        raise SettingError(
            f"{options.config} is the record of a run; only a new training can repeat it",
            fix="leave --config out, or leave --resume and --find-lr out",
        )
    from_file = read_toml(options.config) if options.config else {}
    return {**from_file, **options.settings}


def is_recording(path: Path) -> bool:
    """Whether --config names a run.json, or the folder that contains one, and no TOML file."""
    return path.suffix.lower() == ".json" or path.is_dir()


@dataclass(frozen=True)
class StartingPoint:
    """What --from names.

    folder: a checkpoint; None for random weights. is_chosen: nothing was named, and the base model
    of the package is used where that pays.
    """

    folder: Path | None = None
    is_chosen: bool = False

    @property
    def name(self) -> str | None:
        """As in run.json, `none` for random weights; None where nothing was named."""
        return None if self.is_chosen else start_name(self.folder) or NONE


def starting_point(options: TextOptions, screen: Screen) -> StartingPoint:
    if options.base is None:
        return StartingPoint(is_chosen=True)
    if options.base == NONE:
        return StartingPoint()
    if options.base != BASE:
        return StartingPoint(find_checkpoint(options.base, options.checkpoints, screen.notice))
    own = options.checkpoints / BASE
    if own.is_dir():
        screen.notice(f"--from {BASE} is the base model of the package; --from {own} is your run")
    return StartingPoint(base_folder())
