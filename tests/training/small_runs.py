"""Helpers of the tests that train small runs."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.run_log import Sinks
from simplellm.errors import Notice
from simplellm.training.context import TrainingContext
from simplellm.training.distributed import World
from simplellm.training.trainer import Trainer


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


def slow_steps(
    monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int], float] = lambda step: 0.05
) -> None:
    """Let step number `step` take `seconds(step)` longer by all clocks, without waiting.

    The steps of a budget are then few, and their number hardly depends on the machine.
    """
    counter, processor, train_step = time.perf_counter, time.process_time, Trainer.train_step
    skipped = [0.0]

    def slow(trainer: Trainer, *arguments: Any) -> None:
        train_step(trainer, *arguments)
        skipped.append(skipped[-1] + seconds(trainer.step))

    monkeypatch.setattr(time, "perf_counter", lambda: counter() + skipped[-1])
    monkeypatch.setattr(time, "process_time", lambda: processor() + skipped[-1])
    monkeypatch.setattr(Trainer, "train_step", slow)


def digests(run: RunFolder) -> list[str]:
    """SHA-256 of the averaged weights, and of the live weights with the optimizer's state."""
    files = [run.last() / name for name in ("model.safetensors", "training/state.safetensors")]
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
