"""Helpers of the tests that train small runs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.run_log import Sinks
from simplellm.errors import Notice
from simplellm.training.context import TrainingContext
from simplellm.training.distributed import World


def training_context(
    folder: Path, stop_after: int | None = None, notice: Notice = lambda text: None
) -> TrainingContext:
    """One process on the CPU; it requests a stop after `stop_after` steps."""
    requests = iter(range(10**9))
    return TrainingContext(
        checkpoints=folder,
        device=torch.device("cpu"),
        world=World(),
        sink=Sinks(),
        notice=notice,
        should_stop=lambda: stop_after is not None and next(requests) >= stop_after,
    )


def digests(run: RunFolder) -> list[str]:
    """SHA-256 of the averaged weights, and of the live weights with the optimizer's state."""
    files = [run.last() / name for name in ("model.safetensors", "training/state.safetensors")]
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
