"""Options of each command as frozen dataclasses, with their defaults.

`parser.parse` builds them. This module does not import torch.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simplellm.data.conversations.options import DEFAULT_GAP_SECONDS
from simplellm.data.text_files import STDIN_NAME

SettingValues = Mapping[str, Any]  # values by setting name, only of the settings that were given


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every command.

    arguments: the command line as typed, without the program name.
    started_at: time.perf_counter() at the start of the program. Training budgets count from it;
        None counts from the start of the training.
    """

    arguments: tuple[str, ...] = ()
    started_at: float | None = None
    checkpoints: Path = Path("checkpoints")
    run: str | None = None
    device: str = "auto"
    json: bool = False
    color: bool = True

    def command(self, words: str) -> str:
        """`simplellm WORDS` for the same folder of runs, to be shown as the next command."""
        if self.checkpoints == Options.checkpoints:
            return f"simplellm {words}"
        return f"simplellm {words} --checkpoints {shlex.quote(str(self.checkpoints))}"

    @property
    def reads_stdin(self) -> bool:
        """Whether the command reads a text from standard input."""
        return False


# ---------------------------------------------------------------- training


@dataclass(frozen=True, kw_only=True)
class ReadingOptions(Options):
    """How text files are read.

    skip_bad: leave unusable JSON lines out, if they are at most `max_bad_share` of all.
    text_format: --format; None detects conversations. me: name of the person of a chat whose
    messages are the replies. gap: seconds of silence that begin a new conversation.
    """

    encoding: str = "utf-8"
    text_key: str = "text"
    skip_bad: bool = False
    max_bad_share: float = 0.1
    text_format: str | None = None
    me: str | None = None
    gap: float = DEFAULT_GAP_SECONDS


@dataclass(frozen=True, kw_only=True)
class TextOptions(ReadingOptions):
    """Options of the commands that train: the texts, and the model of --from to start from."""

    texts: tuple[str, ...] = ()
    val_data: str | None = None
    base: str | None = None

    @property
    def reads_stdin(self) -> bool:
        return STDIN_NAME in (*self.texts, self.val_data)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(TextOptions):
    """Options of one training.

    config: the TOML file or run.json of --config. chart: where the picture of the losses is written
    too.
    settings: model and training settings given as flags; they override the file.
    """

    config: Path | None = None
    chart: Path | None = None
    settings: SettingValues = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainOptions(TrainingOptions):
    """`train`."""

    name: str | None = None
    resume: bool = False
    accept_changes: bool = False
    track: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FindLrOptions(TrainingOptions):
    """`train --find-lr`."""


@dataclass(frozen=True, kw_only=True)
class SweepOptions(TextOptions):
    """`sweep`. grid: the values to try of each setting, by setting name.

    chart: where the picture of the losses is written; by default beside the runs.
    """

    chart: Path | None = None
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)


# ---------------------------------------------------------------- generation


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """Options of the commands that compute with a finished model.

    context: limit of the context in tokens; None is that of the model.
    """

    quantize: str = "off"
    context: int | None = None


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(ModelOptions):
    """Options of the commands that generate text. sampling: settings given as flags."""

    sampling: SettingValues = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ChatOptions(SamplingOptions):
    """`chat`. continue_last: --continue. keep_history: False with --no-history.

    system: the system message of a chat model; None for none.
    """

    continue_last: bool = False
    system: str | None = None
    keep_history: bool = True


@dataclass(frozen=True, kw_only=True)
class TalkOptions(ChatOptions):
    """No command: chat, after a training if there is no run. settings: those of the training."""

    settings: SettingValues = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(SamplingOptions):
    """`generate`.

    prompt: text to continue, with `chat` one message of a user. messages: instead, a file with a
    list of messages. system: the system message before them.
    """

    prompt: str = ""
    chat: bool = False
    messages: str | None = None
    system: str | None = None
    probs: bool = False

    @property
    def is_chat(self) -> bool:
        """Whether the model answers messages by its chat template."""
        return self.chat or self.messages is not None or self.system is not None


@dataclass(frozen=True, kw_only=True)
class AnalyzeOptions(SamplingOptions):
    """`analyze`. top: number of candidates. save: where they are saved as a picture."""

    prompt: str
    top: int = 10
    save: Path | None = None


@dataclass(frozen=True, kw_only=True)
class ServeOptions(SamplingOptions):
    """`serve`. host, port: where it listens; port 0 is any free one.

    api_key: None for that of the environment. allowed_hosts: further names of the server.
    cors_origins: web pages elsewhere that may call it.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    api_key: str | None = field(default=None, repr=False)
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ModelOptions, ReadingOptions):
    """`evaluate`. data: the text to score."""

    data: str


@dataclass(frozen=True, kw_only=True)
class BenchOptions(SamplingOptions):
    """`bench`. what: train or generate. versus: the library to compare with."""

    what: str
    versus: str | None = None
    settings: SettingValues = field(default_factory=dict)


# ---------------------------------------------------------------- runs


@dataclass(frozen=True, kw_only=True)
class RunsOptions(Options):
    """`runs`. names: the runs to compare; none lists all runs.

    chart: where the picture of their losses is written; by default beside the runs.
    """

    chart: Path | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PruneOptions(RunsOptions):
    """`runs --prune`. yes: delete without asking."""

    yes: bool = False


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """`export`. type: None for the default of the format. force: replace what is at `out`."""

    format: str
    out: Path
    type: str | None = None
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class ImportOptions(Options):
    """`import`. name: of the new run; None is named after the source."""

    source: str
    name: str | None = None
    context: int | None = None


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(Options):
    """`verify`. checkpoint: a run or one of its checkpoints, instead of --run."""

    checkpoint: str | None = None
