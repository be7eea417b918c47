"""Runtime context of a training: where it runs, and whom it reports to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from simplellm.checkpoint.run import Run
from simplellm.checkpoint.run_log import Sink
from simplellm.data.prepared import Prepared
from simplellm.training.distributed import World
from simplellm.training.trainer import Preview


@dataclass(frozen=True)
class TrainingContext:
    """Runtime context of a training: paths, device, process group and callbacks."""

    checkpoints: Path
    device: torch.device
    world: World
    sink: Sink
    notice: Callable[[str], None]
    should_stop: Callable[[], bool]
    stdin: BinaryIO | None = None
    make_preview: Callable[[Run, Prepared], Preview] | None = None
    command: tuple[str, ...] = ()
    started_at: float | None = (
        None  # time.perf_counter() at which the budget starts; default: the call
    )
