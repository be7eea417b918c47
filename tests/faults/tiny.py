"""A training that takes a tenth of a second, and the digest of its result."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.run_log import Sinks
from simplellm.errors import Notice
from simplellm.training.context import TrainingContext
from simplellm.training.distributed import World
from simplellm.training.result import Result
from simplellm.training.resume import resume
from simplellm.training.sources import Sources
from simplellm.training.start import start

TINY = {
    "n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16, "vocab_size": 300, "batch_size": 2,
    "eval_tokens": 64, "log_interval": 1, "precision": "float32", "dropout": 0.2,
    "ema_decay": 0.9, "optimizer": "muon", "bpe_dropout": 0.0, "gradient_accumulation": 2,
    "compile": "off", "patience": 0, "max_epochs": None, "r_drop": 0.0, "composition": 0.0,
}  # fmt: skip
TEXT = "The judge looked at the baker, and the baker looked at the lamp. " * 40
STEPS, INTERVAL = 12, 3


def training_context(
    folder: Path,
    notice: Notice = lambda text: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainingContext:
    return TrainingContext(
        checkpoints=folder,
        device=torch.device("cpu"),
        world=World(),
        sink=Sinks(),
        notice=notice,
        should_stop=should_stop,
    )


def write_text(folder: Path) -> Path:
    """Write `text.txt` into the folder; its path."""
    path = folder / "text.txt"
    path.write_text(TEXT)
    return path


def train(
    folder: Path, name: str = "run", context: TrainingContext | None = None, **given: Any
) -> Result:
    """Start a run on `text.txt`, which is beside the checkpoints folder."""
    settings = {**TINY, "max_steps": STEPS, "eval_interval": INTERVAL, **given}
    return start(
        Sources((str(folder.parent / "text.txt"),)),
        settings,
        name,
        context or training_context(folder),
    )


def go_on(
    folder: Path, name: str = "run", context: TrainingContext | None = None, **given: Any
) -> Result:
    return resume(RunFolder(folder / name), given, context or training_context(folder))


def digest(folder: Path) -> str:
    """SHA-256 of a checkpoint's averaged weights, live weights and optimizer state."""
    names = ("model.safetensors", "training/state.safetensors")
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in names)).hexdigest()
