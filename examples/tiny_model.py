"""The model of the other examples: a run that is named on the command line, or a tiny new model.

This module is imported by the examples; it shows how to train with small settings in seconds.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import simplellm

STORY = Path(__file__).resolve().parents[1] / "the-verdict.txt"
TINY = {
    "max_steps": 30,
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 64,
    "block_size": 64,
    "vocab_size": 512,
    "batch_size": 4,
    "compile": "off",
}


def open_or_train(run: str | None = None) -> simplellm.Model:
    """The model of `run` (a name in checkpoints/, or a path); without a run, a new tiny model."""
    if run is not None:
        return simplellm.load(run)
    print("training a tiny model; name a run to use a better one\n")
    with tempfile.TemporaryDirectory() as folder:
        trained = simplellm.train(STORY, checkpoints=folder, device="cpu", seed=1, **TINY)
        return simplellm.load(trained, device="cpu")
