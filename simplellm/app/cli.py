"""The command line: what may be typed, what is called, how it ends. The only room that knows argparse.

Nothing heavy is imported before the arguments are known to be right: `--help` and usage errors
answer without torch.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, NoReturn

import simplellm
from simplellm.app.console import is_broken_pipe
from simplellm.app.interrupt import SIGNALS
from simplellm.app.keyboard import typed_ahead_waits
from simplellm.config.environment import set_defaults
from simplellm.config.model import ModelConfig
from simplellm.config.sampling import SamplingParams
from simplellm.config.setting import Setting, current_names, flag_of
from simplellm.config.suggest import did_you_mean
from simplellm.config.training import TrainConfig
from simplellm.errors import SettingError, SimpleLLMError
from simplellm.training.threads import adapted_to_load
from simplellm.training.tracking import TRACKERS

COMMANDS = {
    "train": "train a model on your text",
    "chat": "talk to a trained model",
    "generate": "one reply to a prompt, on stdout",
    "evaluate": "score a text: loss, perplexity, accuracy, bits per byte",
    "analyze": "the most likely next tokens, before and after the sampling settings",
    "runs": "the trained runs",
    "verify": "which checkpoints of a run are whole",
    "sweep": "train with every combination of some settings, and compare",
    "bench": "tokens per second of training and of replies here",
}
DESCRIPTION = (
    "Train a small language model on your own text and talk to it. "
    "Without a command: talk to the newest run, or train one first."
)
FAILS_ALONE_SECONDS = 2.0  # torchrun ends the others as soon as one has failed
SIGNAL_AGAIN_SECONDS = 0.02
INTERRUPTED = 130  # 128 + the signal's number, as shells have it
EXPERIMENTS = ("bench", "sweep", "find_lr")
UPKEEP = ("verify", "prune")
TALKS = ("talk", "chat")
TRAINS = ("train", "sweep", "find_lr")
SAMPLED = ("chat", "generate", "analyze")


class Parser(argparse.ArgumentParser):
    """Says what is wrong the way everything here does, and guesses what was meant."""

    commands: dict[str, Parser]

    def error(self, message: str) -> NoReturn:
        raise SettingError(
            message, fix=self._guess(message) or f"{self.prog} --help lists what there is"
        )

    def _guess(self, message: str) -> str:
        unknown = re.search(
            r"unrecognized arguments: (--[\w-]+)|invalid choice: '([^']*)'", message
        )
        if not unknown:
            return ""
        word = unknown[1] or unknown[2]
        known = (
            [
                flag
                for action in self._actions
                if action.help != argparse.SUPPRESS
                for flag in action.option_strings
            ]
            if unknown[1]
            else list(COMMANDS)
        )
        return did_you_mean(word, known, otherwise="")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Everything that can go wrong is told in one or two lines.

    Of the processes torchrun starts the first speaks for all; another one only where it fails alone.
    """
    if not _is_one_of_many():
        return _main(argv)
    nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (closed by the block below)
    with nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        try:
            return _main(argv)
        except Exception:
            time.sleep(FAILS_ALONE_SECONDS)
            raise


def _main(argv: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="backslashreplace"
            )  # a terminal of another encoding is no reason to stop
    for number in SIGNALS:
        if number != signal.SIGINT:
            signal.signal(number, _terminate)
    sys.unraisablehook = _raise_again
    try:
        return _run(arguments)
    except SimpleLLMError as error:
        _tell(error, arguments)
        return error.exit_code
    except SystemExit as end:  # --help, --version, or a signal
        return int(end.code or 0)
    except KeyboardInterrupt:
        return INTERRUPTED
    except MemoryError:
        _tell(
            SimpleLLMError(
                "out of memory", fix="use a smaller model, a shorter context or a smaller text"
            ),
            arguments,
        )
        return 1
    except OSError as error:
        if is_broken_pipe(error):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 0
        where = f" {error.filename}" if error.filename else ""
        _tell(SimpleLLMError(f"the system refused{where}: {error.strerror or error}"), arguments)
        return 1


def _run(arguments: list[str]) -> int:
    started_at = time.perf_counter()  # a budget begins here, with the import of torch
    options = parse(arguments) | {"started_at": started_at}
    set_defaults(os.environ)
    special = [name for name in ("find_lr", "prune") if options.get(name)]
    command = special[0] if special else options["command"] or "talk"
    with _typed_ahead(command, options):  # from here on: the imports take seconds
        from simplellm.app import actions, experiments, upkeep

        room = experiments if command in EXPERIMENTS else upkeep if command in UPKEEP else actions
        with adapted_to_load():
            return int(getattr(room, command)(options))


def _typed_ahead(command: str, options: dict[str, Any]) -> contextlib.AbstractContextManager[None]:
    """Keys typed while a command trains or loads wait for the prompt or the shell; a command that reads stdin gets them."""
    if command in TALKS:
        waits = sys.stdout.isatty()  # the chat of a pipe reads whole lines from the terminal
    else:
        waits = command in TRAINS and "-" not in (*options["texts"], options.get("val_data"))
    if not waits or _is_one_of_many():
        return contextlib.nullcontext()
    return typed_ahead_waits(sys.stdin, for_prompt=command in TALKS)


def _tell(error: SimpleLLMError, arguments: list[str]) -> None:
    from simplellm.app.render import Screen

    if _is_one_of_many():
        time.sleep(FAILS_ALONE_SECONDS)
    notices = sys.__stderr__ if _is_one_of_many() else sys.stderr
    with contextlib.suppress(OSError):  # nobody listens: the exit code says it
        Screen(color="--no-color" not in arguments, notices=notices).error(error)


def _is_one_of_many() -> bool:
    """Whether torchrun started this process, and another one first."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0"


def _terminate(number: int, frame: Any) -> NoReturn:
    raise SystemExit(128 + number)


def _signal_main_thread(number: int) -> None:
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)  # ends a wait there too
    else:
        signal.raise_signal(number)


def _raise_again(unraisable: Any) -> None:
    """Send a signal once more that arrived in a finalizer, where Python ignores exceptions; others are reported as always."""
    error = unraisable.exc_value
    if isinstance(error, KeyboardInterrupt):
        number = int(signal.SIGINT)
    elif isinstance(error, SystemExit) and isinstance(error.code, int) and error.code > 128:
        number = error.code - 128
    else:
        sys.__unraisablehook__(unraisable)
        return
    again = threading.Timer(SIGNAL_AGAIN_SECONDS, _signal_main_thread, [number])
    again.daemon = True
    again.start()


def parse(arguments: Sequence[str]) -> dict[str, Any]:
    """The command and its options by name; settings under "given" (training) and "sampling", only those that were given."""
    parser = build_parser()
    namespace, unknown = parser.parse_known_args(arguments)
    if unknown:
        parser.commands.get(namespace.command, parser).error(
            f"unrecognized arguments: {' '.join(unknown)}"
        )
    options = vars(namespace)
    given = _pop_settings(options, ModelConfig, TrainConfig)
    if options["command"] == "sweep":
        given = {name: _values(name, text) for name, text in given.items()}
    sampling = _pop_settings(options, SamplingParams)
    defaults = {
        "checkpoints": "checkpoints",
        "run": None,
        "device": "auto",
        "seed": None,
        "json": False,
        "color": True,
    }
    options = {
        **defaults,
        **options,
        "given": given,
        "sampling": sampling,
        "arguments": list(arguments),
    }
    if options["seed"] is not None:
        seed = options["seed"]
        given["seed"] = [seed] if options["command"] == "sweep" else seed
        sampling["seed"] = seed
    return options


COMMON = ("seed",)


def _pop_settings(options: dict[str, Any], *configs: Any) -> dict[str, Any]:
    """Remove from `options` the settings of `configs` that were given; return them by their current names."""
    settings = [setting for config in configs for setting in config.settings()]
    names = [name for setting in settings for name in (setting.name, *setting.aliases)]
    given = {name: options.pop(name) for name in names if name in options and name not in COMMON}
    return current_names(given, settings)


def build_parser() -> Parser:
    common = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    _add_common_flags(common)
    parser = Parser(prog="simplellm", description=DESCRIPTION, parents=[common], allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"simplellm {simplellm.__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    parser.commands = {
        name: subparsers.add_parser(name, help=help, description=help, parents=[common], allow_abbrev=False,
                                    argument_default=argparse.SUPPRESS)
        for name, help in COMMANDS.items()
    }  # fmt: skip
    _add_own_flags(parser.commands)
    return parser


def _add_common_flags(parser: Parser) -> None:
    group = parser.add_argument_group("everywhere")
    group.add_argument(
        "--checkpoints", metavar="DIR", help="folder of the runs (default: checkpoints)"
    )
    group.add_argument(
        "--run",
        metavar="NAME|PATH",
        help="which run (default: the newest that has a best checkpoint)",
    )
    group.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), help="where to run (default: auto)"
    )
    group.add_argument(
        "--seed",
        metavar="N",
        type=TrainConfig.setting("seed").parse,
        help="start of all randomness",
    )
    group.add_argument(
        "--json", action="store_true", help="one JSON object on stdout, nothing else there"
    )
    group.add_argument(
        "--no-color", dest="color", action="store_false", help="no colour (NO_COLOR does the same)"
    )


def _add_own_flags(commands: dict[str, Parser]) -> None:
    _add_train_flags(commands["train"])
    _add_sweep_flags(commands["sweep"])
    _add_bench_flags(commands["bench"])
    _add_runs_flags(commands["runs"])
    _add_chat_flags(commands["chat"])
    for name in SAMPLED:
        _add_settings(commands[name], SamplingParams)
    for name in (*SAMPLED, "evaluate", "bench"):
        commands[name].add_argument(
            "--quantize",
            choices=("off", "int8"),
            default="off",
            help="int8: weights in 8 bits, faster for large models",
        )
    for name in ("generate", "analyze"):
        commands[name].add_argument(
            "--prompt", metavar="TEXT", required=True, help="what to go on from; - reads stdin"
        )
    commands["generate"].add_argument(
        "--probs", action="store_true", default=False,
        help="shade each token by its probability; with --json, add each with probability, rank and entropy",
    )  # fmt: skip
    commands["analyze"].add_argument(
        "--top", metavar="N", type=_positive, default=10, help="candidates shown (default: 10)"
    )
    commands["verify"].add_argument(
        "checkpoint",
        nargs="?",
        metavar="RUN",
        default=None,
        help="a run or one of its checkpoints (default: the newest run)",
    )
    commands["evaluate"].add_argument(
        "--data", metavar="FILE", required=True, help="the text to score"
    )
    commands["evaluate"].add_argument(
        "--encoding", metavar="NAME", default="utf-8", help="of the text (default: utf-8)"
    )


def _add_train_flags(train: Parser) -> None:
    train.add_argument(
        "texts", nargs="*", metavar="TEXT", default=[], help="files, folders, globs, - for stdin"
    )
    train.add_argument(
        "--name", metavar="RUN", default=None, help="what to call the run (default: after the text)"
    )
    train.add_argument(
        "--resume",
        action="store_true",
        default=False,
        help="go on with --name (or --run) where it stopped",
    )
    train.add_argument(
        "--accept-changes", action="store_true", default=False,
        help="resume though the text or a setting changed; kept in run.json",
    )  # fmt: skip
    train.add_argument(
        "--from",
        metavar="RUN",
        default=None,
        help="go on from this trained model, with its tokenizer, at a lower rate",
    )
    train.add_argument(
        "--val-data",
        metavar="FILE",
        default=None,
        help="hold out this text instead of the last part",
    )
    train.add_argument(
        "--track",
        metavar="NAMES",
        type=_trackers,
        default=(),
        help="also log to tensorboard and/or wandb (comma between)",
    )
    train.add_argument(
        "--encoding", metavar="NAME", default="utf-8", help="of the texts (default: utf-8)"
    )
    train.add_argument(
        "--config",
        metavar="FILE.toml",
        default=None,
        help="settings from a file; flags override them",
    )
    for config in (ModelConfig, TrainConfig):
        _add_settings(train, config)
    train.add_argument(
        "--find-lr",
        action="store_true",
        default=False,
        help="only find a good learning rate: a range test",
    )


def _add_sweep_flags(sweep: Parser) -> None:
    sweep.add_argument(
        "texts",
        nargs="*",
        metavar="TEXT",
        default=[],
        help="as of train (default: the-verdict.txt)",
    )
    for config in (ModelConfig, TrainConfig):
        _add_settings(sweep, config, many=True)


def _add_bench_flags(bench: Parser) -> None:
    bench.add_argument(
        "what",
        choices=("train", "generate"),
        help="training steps, or replies of one text at a time",
    )
    bench.add_argument(
        "--versus",
        choices=("transformers",),
        default=None,
        help="take turns with this, and print the ratio",
    )
    for kind in (ModelConfig, TrainConfig, SamplingParams):
        _add_settings(bench, kind)


def _add_runs_flags(runs: Parser) -> None:
    runs.add_argument(
        "--prune",
        action="store_true",
        default=False,
        help="delete all but each run's best and last two checkpoints",
    )
    runs.add_argument("--yes", action="store_true", default=False, help="delete without asking")


def _add_chat_flags(chat: Parser) -> None:
    chat.add_argument(
        "--no-history", dest="history", action="store_false", default=True,
        help="keep neither a history of what is typed nor the conversation",
    )  # fmt: skip
    chat.add_argument(
        "--continue",
        action="store_true",
        default=False,
        help="go on with the last conversation with this run",
    )


def _add_settings(parser: Parser, config: Any, many: bool = False) -> None:
    """A flag for each setting of `config`; with `many` it takes several values, with commas between them."""
    group = parser.add_argument_group(f"{config.title} settings")
    for setting in config.settings():
        if setting.name not in COMMON:
            flag_options = {"metavar": "A,B,..."} if many else _flag_options(setting)
            group.add_argument(setting.flag, **flag_options)
            for alias in setting.aliases:
                group.add_argument(flag_of(alias), **{**flag_options, "help": argparse.SUPPRESS})


def _flag_options(setting: Setting) -> dict[str, Any]:
    help = f"{setting.help} ({setting.range}; default: {setting.default_text})".replace("%", "%%")
    if setting.kind == "bool":
        return {"action": argparse.BooleanOptionalAction, "help": help}
    if setting.kind == "texts":
        return {"action": "append", "metavar": "TEXT", "help": help}
    return {"type": setting.parse, "metavar": "|".join(setting.choices) or "N", "help": help}


def _values(name: str, text: str) -> list[Any]:
    """The values of a sweep, checked one by one."""
    config = ModelConfig if name in _names(ModelConfig) else TrainConfig
    return [config.setting(name).parse(part) for part in text.split(",")]


def _positive(text: str) -> int:
    return int(Setting("top", "int", 10, "", minimum=1, maximum=1_000_000).parse(text))


def _trackers(text: str) -> tuple[str, ...]:
    setting = Setting("track", "str", "none", "", choices=tuple(TRACKERS))
    return tuple(dict.fromkeys(setting.parse(name.strip()) for name in text.split(",")))


def _names(*configs: Any) -> list[str]:
    return [setting.name for config in configs for setting in config.settings()]
