"""A checkpoint as the source of an export."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from simplellm.checkpoint.export.exported_model import ExportedModel, source_of
from simplellm.checkpoint.find_runs import run_of
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.step_folder import open_source
from simplellm.errors import CheckpointError, Notice
from simplellm.model.transformer import SimpleLLM


def exported_model(
    folder: Path,
    held_out: Callable[[RunFolder], Sequence[str]] = lambda run: (),
    notice: Notice = lambda text: None,
) -> ExportedModel:
    """A checkpoint, a model folder or a GGUF file, and what its run recorded about it.

    Its weights are read when they are written. held_out: reads the validation documents of a run.
    """
    source = open_source(folder)
    run = run_of(folder)
    try:
        info = run.read_info()
    except CheckpointError:  # a checkpoint outside of its run
        info = {}
    return ExportedModel(
        _title(run.name if info else folder.name.removesuffix(".gguf")),
        source,
        info,
        run.figures_of(folder) if info else {},
        partial(held_out, run),
        notice,
    )


def with_network(model: ExportedModel, network: SimpleLLM) -> ExportedModel:
    """`model` with the weights and the config of `network`, which was loaded from it.

    The tensors keep their order, so that an unchanged network gives the same file.
    """
    source = model.source
    loaded = source_of(network, source.tokenizer, source.source, source.generation)
    tensors = {name: loaded.tensors[name] for name in source.tensors}
    return replace(model, source=replace(loaded, tensors=tensors))


def _title(name: str) -> str:
    """`name` without characters that have a meaning in Markdown or YAML."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-._") or "model"
