"""The parser of the command line: from words to the options of one command.

A command needs four things: its options in options.py, its flags in flags.py, a line in COMMANDS,
and its function in subcommands/ with a case in subcommands/dispatch.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import simplellm
from simplellm.app import flags, generation_flags, options
from simplellm.app.flags_without_effect import refuse_flags_without_effect
from simplellm.app.options import Options, SweepOptions, TalkOptions
from simplellm.config.did_you_mean import did_you_mean
from simplellm.config.model import ModelConfig
from simplellm.config.sampling import SamplingParams
from simplellm.config.setting import SWITCH_WORDS, Settings, current_names
from simplellm.config.training import TrainConfig
from simplellm.errors import SettingError

DESCRIPTION = (
    "Train a small language model on your own text and chat with it. "
    "Without a command: chat with the newest run; if there is none, train one first."
)


class Command(NamedTuple):
    """A command: one line of help, the class of its options, and the function that adds its flags.

    A flag may select another class of options (`train --find-lr`).
    """

    help: str
    options: type[Options]
    add_flags: Callable[[argparse.ArgumentParser], None]


COMMANDS = {
    "train": Command("train a model on your text", options.TrainOptions, flags.add_train_flags),
    "chat": Command(
        "chat with a trained model", options.ChatOptions, generation_flags.add_chat_flags
    ),
    "generate": Command(
        "write one reply to a prompt to stdout",
        options.GenerateOptions,
        generation_flags.add_generate_flags,
    ),
    "evaluate": Command(
        "score a text: loss, perplexity, accuracy, bits per byte",
        options.EvaluateOptions,
        flags.add_evaluate_flags,
    ),
    "analyze": Command(
        "show the most likely next tokens, before and after the sampling settings",
        options.AnalyzeOptions,
        generation_flags.add_analyze_flags,
    ),
    "serve": Command(
        "answer HTTP requests as OpenAI's API does, with a chat page for the browser",
        options.ServeOptions,
        generation_flags.add_serve_flags,
    ),
    "runs": Command(
        "list the trained runs, or compare some of them", options.RunsOptions, flags.add_runs_flags
    ),
    "import": Command(
        "make a run of an open model: a model folder, a GGUF file or a model on the hub",
        options.ImportOptions,
        flags.add_import_flags,
    ),
    "verify": Command(
        "check whether the checkpoints of a run are complete and undamaged",
        options.VerifyOptions,
        flags.add_verify_flags,
    ),
    "export": Command(
        "write a trained model for llama.cpp, Ollama, ONNX Runtime or transformers",
        options.ExportOptions,
        flags.add_export_flags,
    ),
    "sweep": Command(
        "train with every combination of some settings and compare the results",
        options.SweepOptions,
        flags.add_sweep_flags,
    ),
    "bench": Command(
        "measure tokens per second of training or generation on this machine",
        options.BenchOptions,
        flags.add_bench_flags,
    ),
}


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises SettingError and suggests a similar flag or command."""

    commands: dict[str, Parser]

    def error(self, message: str) -> NoReturn:
        see_help = f"{self.prog} --help shows the usage"
        if wrong := re.fullmatch(
            r"argument --([\w-]+)/.*: ignored explicit argument (.*)", message, re.DOTALL
        ):
            name = wrong[1].replace("-", "_")
            raise SettingError(f"{name} is on or off, got {wrong[2]}", fix=f"--{wrong[1]} on")
        if missing := re.fullmatch(r"argument (--[\w-]+): expected one argument", message):
            see_help = f"write {missing[1]}=VALUE if the value begins with a dash"
        raise SettingError(message, fix=self._suggestion(message) or see_help)

    def joins(self, flag: str, value: str) -> str | None:
        """`flag value` as one word, where argparse would not take the value; else None.

        A value that begins with a dash belongs to a flag that needs one, unless it is a flag
        itself. A switch takes on and off.
        """
        action = self._option_string_actions.get(flag)
        if isinstance(action, argparse.BooleanOptionalAction):
            switches = {"on": flag, "off": f"--no-{flag.removeprefix('--')}"}
            return None if flag.startswith("--no-") else switches.get(value.lower())
        needs_value = action is not None and action.nargs is None
        if needs_value and value.startswith("-") and value not in self._option_string_actions:
            return f"{flag}={value}"
        return None

    def is_switch_alone(self, words: Sequence[str]) -> bool:
        """Whether the first of `words` is a switch of a sweep, and the next is not its value."""
        action = self._option_string_actions.get(words[0])
        values = words[1].split(",") if len(words) > 1 else ["none"]
        takes_values = action is not None and action.const == "on" and action.nargs == "?"
        return takes_values and not all(value.lower() in SWITCH_WORDS for value in values)

    def _suggestion(self, message: str) -> str:
        unknown = re.search(
            r"unrecognized arguments: (--[\w-]+)|invalid choice: '([^']*)'", message
        )
        if not unknown:
            return ""
        known = self._visible_flags() if unknown[1] else list(COMMANDS)
        return did_you_mean(unknown[1] or unknown[2], known, otherwise="")

    def _visible_flags(self) -> list[str]:
        visible = [action for action in self._actions if action.help != argparse.SUPPRESS]
        return [flag for action in visible for flag in action.option_strings]


def parse(arguments: Sequence[str], started_at: float | None = None) -> Options:
    """The options of the command in `arguments`; SettingError if they are wrong.

    `started_at`: time.perf_counter() at the start of the program.
    """
    parser = build_parser()
    _refuse_two_runs(arguments)
    namespace, unknown = parser.parse_known_args(_joined_values(arguments, parser))
    values = vars(namespace)
    command = values.pop("command")
    if unknown:
        parser.commands.get(command, parser).error(f"unrecognized arguments: {' '.join(unknown)}")
    settings = _pop_settings(values, ModelConfig, TrainConfig)
    sampling = _pop_settings(values, SamplingParams)
    options_class: type[Options] = values.pop("options_class")
    refuse_flags_without_effect(options_class, values)
    if (seed := values.pop("seed", None)) is not None:
        is_list = issubclass(options_class, SweepOptions)
        value = seed if is_list else SamplingParams.setting("seed").parse(seed)
        sampling["seed"] = value
        if value is not None:  # auto is the default
            settings["seed"] = value
    if issubclass(options_class, SweepOptions):
        values["grid"] = {name: _sweep_values(name, given) for name, given in settings.items()}
    values |= {"settings": settings, "sampling": sampling}
    values |= {"arguments": tuple(arguments), "started_at": started_at}
    for name in ("texts", "names", "allowed_hosts", "cors_origins"):
        if name in values:
            values[name] = tuple(values[name])
    names = {field.name for field in dataclasses.fields(options_class)}
    return options_class(**{name: value for name, value in values.items() if name in names})


def _refuse_two_runs(arguments: Sequence[str]) -> None:
    """SettingError for a second --run, which would silently replace the first."""
    if sum(word == "--run" or word.startswith("--run=") for word in arguments) > 1:
        raise SettingError("--run is given twice", fix="name one run in each command")


def _joined_values(arguments: Sequence[str], parser: Parser) -> list[str]:
    """The arguments with flags and values joined that argparse would take apart."""
    parsers = [parser, *(parser.commands[word] for word in arguments if word in parser.commands)]
    joined: list[str] = []
    words = list(arguments)
    while words:
        flag, equals, value = words[0].partition("=")
        if equals:
            switch = next(filter(None, (each.joins(flag, value) for each in parsers)), None)
            is_switch = switch is not None and "=" not in switch
            joined.append(switch if is_switch and switch else words[0])
            words = words[1:]
            continue
        found = (each.joins(words[0], words[1]) for each in parsers) if len(words) > 1 else ()
        pair = next(filter(None, found), None)
        is_on = pair is None and any(each.is_switch_alone(words) for each in parsers)
        joined.append(f"{flag}=on" if is_on else pair or words[0])
        words = words[2:] if pair else words[1:]
    return joined


def build_parser() -> Parser:
    """The parser of all commands. Flags that are not given leave no attribute in the namespace."""
    common = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    flags.add_common_flags(common)
    parser = Parser(prog="simplellm", description=DESCRIPTION, parents=[common], allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"simplellm {simplellm.__version__}")
    parser.set_defaults(options_class=TalkOptions)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    parser.commands = {
        name: subparsers.add_parser(
            name, help=command.help, description=command.help, parents=[common], allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
        )
        for name, command in COMMANDS.items()
    }  # fmt: skip
    for name, command in COMMANDS.items():
        parser.commands[name].set_defaults(options_class=command.options)
        command.add_flags(parser.commands[name])
    return parser


def _pop_settings(values: dict[str, Any], *configs: type[Settings]) -> dict[str, Any]:
    """Remove the settings of `configs` from `values`; return them by their current names."""
    settings = [
        setting for config in configs for setting in config.settings() if setting.name != "seed"
    ]
    names = [name for setting in settings for name in (setting.name, *setting.aliases)]
    return current_names({name: values.pop(name) for name in names if name in values}, settings)


def _sweep_values(name: str, given: Any) -> list[Any]:
    """The different values of a setting in a sweep, each checked."""
    config = ModelConfig if name in ModelConfig.names() else TrainConfig
    return list(dict.fromkeys(config.setting(name).parse(part) for part in given.split(",")))
