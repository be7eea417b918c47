"""The flags of each command. Their defaults are those of the option classes in options.py."""

from __future__ import annotations

import argparse
from argparse import ArgumentParser
from typing import Any

from simplellm.app import flag_values as values
from simplellm.app.options import FindLrOptions, PruneOptions
from simplellm.app.reading_flags import add_reading
from simplellm.base.packaged import BASE, NONE
from simplellm.config.export_formats import EXPORT_FORMATS, EXPORT_TYPES
from simplellm.config.model import ModelConfig
from simplellm.config.sampling import SamplingParams
from simplellm.config.setting import Setting, Settings, flag_of, unescape
from simplellm.config.training import TrainConfig
from simplellm.storage.user_paths import expand_user

NEW_FILE = "a new file that ends in .svg, .html or .png"


def add_common_flags(parser: ArgumentParser) -> None:
    """The flags that may stand before or after each command."""
    group = parser.add_argument_group("for every command")
    group.add_argument(
        "--checkpoints",
        metavar="DIR",
        type=values.folder,
        help="folder that contains the runs (default: checkpoints)",
    )
    group.add_argument(
        "--run",
        metavar="NAME|PATH",
        type=expand_user,
        help="run to use (default: the newest run that has a best checkpoint)",
    )
    group.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), help="device to use (default: auto)"
    )
    group.add_argument(  # parsed later: a sweep takes several
        "--seed", metavar="N", help="seed of all randomness; a sweep takes several (1,2,3)"
    )
    group.add_argument(
        "--json", action="store_true", help="write one JSON object, and nothing else, to stdout"
    )
    group.add_argument(
        "--no-color",
        dest="color",
        action="store_false",
        help="no colours (the environment variable NO_COLOR has the same effect)",
    )


def add_train_flags(parser: ArgumentParser) -> None:
    _add_texts(parser, "files, folders or globs; - reads stdin")
    parser.add_argument(
        "--name", metavar="RUN", help="name of the new run (default: named after the text)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue the run --name (or --run) where it stopped"
    )
    parser.add_argument(
        "--accept-changes",
        action="store_true",
        help="resume although the text or a setting has changed; run.json records the change",
    )
    parser.add_argument(
        "--from",
        dest="base",
        metavar="base|none|RUN|PATH",
        type=expand_user,
        help="start from this trained model and its tokenizer: the base model of the package, a "
        "run, or another model; none is random weights (default: base where that pays)",
    )
    _add_val_data(parser)
    _add_tracking_flags(parser)
    add_reading(parser, "the texts")
    _add_config_flags(parser)


def _add_tracking_flags(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--track",
        metavar="NAMES",
        type=values.trackers,
        help="also log to tensorboard or wandb; separate several names by commas",
    )


def _add_config_flags(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=values.path,
        help="read settings from a TOML file, or repeat a run from its run.json; flags override "
        "the file",
    )
    add_settings(parser, ModelConfig, TrainConfig)
    parser.add_argument(
        "--find-lr",
        dest="options_class",
        action="store_const",
        const=FindLrOptions,
        help="only find a good learning rate with a range test; no run is written",
    )
    _add_chart(parser, "also write the loss curve, or with --find-lr that of the range test, to")


def add_sweep_flags(parser: ArgumentParser) -> None:
    _add_texts(parser, "files, folders or globs; - reads stdin (default: the-verdict.txt)")
    parser.add_argument(
        "--from",
        dest="base",
        choices=(BASE, NONE),
        help="start all runs from the base model of the package, or from random weights (default: "
        "base where that pays and no run has another shape)",
    )
    _add_val_data(parser)
    add_reading(parser, "the texts")
    for config in (ModelConfig, TrainConfig):
        group = parser.add_argument_group(f"{config.title} settings, each with one or more values")
        for setting in _flag_settings(config):
            if setting.kind == "bool":
                _add_sweep_switch(group, setting)
            else:
                _add_flag(group, setting, {"metavar": "A,B,..."})
    _add_chart(parser, "write the loss curves of all runs to")


def _add_sweep_switch(group: argparse._ArgumentGroup, setting: Setting) -> None:
    """`--overfit on,off`, and as in `train` also `--overfit` and `--no-overfit`."""
    _add_flag(group, setting, {"metavar": "on,off", "nargs": "?", "const": "on"})
    off = f"--no-{setting.flag.removeprefix('--')}"
    group.add_argument(
        off, dest=setting.name, action="store_const", const="off", help=argparse.SUPPRESS
    )


def add_bench_flags(parser: ArgumentParser) -> None:
    parser.add_argument(
        "what", choices=("train", "generate"), help="measure training steps, or single replies"
    )
    parser.add_argument(
        "--versus",
        choices=("transformers",),
        help="also measure this library, alternating with it, and show the ratio",
    )
    add_settings(parser, ModelConfig, TrainConfig, SamplingParams)
    add_model_flags(parser)


def add_runs_flags(parser: ArgumentParser) -> None:
    parser.add_argument(
        "names",
        nargs="*",
        metavar="RUN",
        type=expand_user,
        help="compare these runs: figures, settings that differ, and a picture of their losses",
    )
    parser.add_argument(
        "--prune",
        dest="options_class",
        action="store_const",
        const=PruneOptions,
        help="delete all checkpoints except the best and the last two of each run",
    )
    parser.add_argument("--yes", action="store_true", help="delete without asking")
    _add_chart(parser, "write the loss curves of the named runs to")


def add_import_flags(parser: ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a model folder as transformers saves it, a .gguf file, or hf:OWNER/NAME[@REVISION]",
    )
    parser.add_argument(
        "--name", metavar="RUN", help="name of the new run (default: named after the source)"
    )
    _add_context(parser)


def add_verify_flags(parser: ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        nargs="?",
        metavar="RUN",
        type=expand_user,
        help="a run or one of its checkpoints (default: the newest run)",
    )


def add_export_flags(parser: ArgumentParser) -> None:
    formats = ", ".join(f"{name} ({facts.summary})" for name, facts in EXPORT_FORMATS.items())
    parser.add_argument(
        "--format", choices=tuple(EXPORT_FORMATS), required=True, help=f"format to write: {formats}"
    )
    parser.add_argument(
        "--out", metavar="PATH", type=values.path, required=True, help="file or folder to write"
    )
    parser.add_argument(
        "--type",
        choices=EXPORT_TYPES,
        help="number format of the weights; q8_0 only for gguf, onnx only f32 (default: f32)",
    )
    parser.add_argument("--force", action="store_true", help="replace an earlier export")


def add_evaluate_flags(parser: ArgumentParser) -> None:
    add_model_flags(parser)
    parser.add_argument("--data", metavar="FILE", required=True, help="text to score")
    add_reading(parser, "the text")


# ---------------------------------------------------------------- flags of several commands


def _add_val_data(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--val-data",
        metavar="FILE",
        type=expand_user,
        help="use this text for validation instead of the last part of TEXT",
    )


def _add_texts(parser: ArgumentParser, help: str) -> None:
    parser.add_argument("texts", nargs="*", metavar="TEXT", help=help)


def _add_chart(parser: ArgumentParser, what: str) -> None:
    parser.add_argument("--chart", metavar="FILE", type=values.path, help=f"{what} {NEW_FILE}")


def add_model_flags(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--quantize",
        choices=("off", "int8"),
        help="int8: 8-bit weights, faster for large models (default: off)",
    )
    _add_context(parser)


def _add_context(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--context",
        metavar="N",
        type=values.context,
        help="use at most N tokens of context (default: as trained; imported models: 4096)",
    )


def add_settings(parser: ArgumentParser, *configs: type[Settings]) -> None:
    """A flag for each setting of `configs`."""
    for config in configs:
        group = parser.add_argument_group(f"{config.title} settings")
        for setting in _flag_settings(config):
            _add_flag(group, setting, _argparse_options(setting))


def _flag_settings(config: type[Settings]) -> list[Setting]:
    """The settings with a flag of their own; `seed` is a flag of every command."""
    return [setting for setting in config.settings() if setting.name != "seed"]


def _add_flag(group: argparse._ArgumentGroup, setting: Setting, options: dict[str, Any]) -> None:
    group.add_argument(setting.flag, **options)
    for alias in setting.aliases:
        group.add_argument(flag_of(alias), **{**options, "help": argparse.SUPPRESS})


def _argparse_options(setting: Setting) -> dict[str, Any]:
    help = f"{setting.help} ({setting.range}; default: {setting.default_text})".replace("%", "%%")
    if setting.kind == "bool":
        return {"action": argparse.BooleanOptionalAction, "help": help}
    if setting.kind == "texts":
        return {"action": "append", "type": unescape, "metavar": "TEXT", "help": help}
    return {"type": setting.parse, "metavar": "|".join(setting.choices) or "N", "help": help}
