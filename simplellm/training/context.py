"""Runtime objects of a training: paths, device, process group, callbacks, output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import torch

from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.run_log import Sink, Sinks
from simplellm.data.prepared_corpus import Prepared
from simplellm.errors import Notice
from simplellm.model.transformer import SimpleLLM
from simplellm.training.distributed import World
from simplellm.training.saver import Saver

Preview = Callable[[SimpleLLM], str]  # a sample of the model's text, shown at each evaluation


@dataclass(frozen=True)
class TrainingContext:
    """Runtime context of a training: paths, device, process group and callbacks.

    started_at: time.perf_counter() at which the budget starts; by default at the call.
    """

    checkpoints: Path
    device: torch.device
    world: World
    sink: Sink
    notice: Notice
    should_stop: Callable[[], bool]
    stdin: BinaryIO | None = None
    make_preview: Callable[[RunFolder, Prepared], Preview] | None = None
    command: tuple[str, ...] = ()
    started_at: float | None = None


@dataclass(frozen=True)
class Runtime:
    """Device, number format and process group of a trainer; `should_stop` ends it early."""

    device: torch.device
    precision: str
    world: World = field(default_factory=World)
    should_stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Output:
    """Where a trainer saves and reports."""

    saver: Saver
    sink: Sink = field(default_factory=Sinks)
    preview: Preview | None = None
