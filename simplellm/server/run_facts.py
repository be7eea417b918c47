"""Facts about the served run for the page: its model, settings, checkpoints and training curve."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from simplellm.checkpoint.find_runs import run_of
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.run_log import LogRecord, read_log
from simplellm.checkpoint.single_turn import is_single_turn
from simplellm.checkpoint.step_names import step_of
from simplellm.config.sampling import SamplingParams
from simplellm.evaluation.curves import LossCurves
from simplellm.inference.sampler import Sampler
from simplellm.storage.json_files import JsonObject

NOT_ON_THE_PAGE = ("num_beams",)  # the server samples; a beam search cannot be streamed
FIGURES = ("val_loss", "bits_per_byte", "accuracy", "tokens")
LIMITS = ("name", "kind", "minimum", "maximum", "open_minimum", "open_maximum", "range", "help")


def model_facts(name: str, folder: Path, sampler: Sampler) -> JsonObject:
    """The served model, in numbers. name: of the model in the API.

    keeps_context: whether a chat lets the model read earlier turns, unless the user decides.
    """
    config, run = sampler.model.config, run_of(folder)
    figures = run.figures_of(folder)
    return {
        "model": name,
        "run": run.name,
        "step": max(step_of(folder), 0),
        "is_chat": sampler.template is not None,
        "keeps_context": sampler.template is not None and not is_single_turn(run),
        "end_ids": sorted(sampler.end_ids),
        "architecture": config.architecture,
        "layers": config.n_layer,
        "heads": config.n_head,
        "width": config.n_embd,
        "context": sampler.block_size,
        "vocabulary": config.vocab_size,
        "parameters": sampler.model.n_parameters,
        "figures": {key: figures[key] for key in FIGURES if key in figures},
        "checkpoints": [_checkpoint(run, other, folder) for other in checkpoints_of(folder)],
    }


def checkpoints_of(folder: Path) -> list[Path]:
    """All checkpoints of the run that `folder` belongs to, oldest first; they may be damaged.

    A model from elsewhere has only itself.
    """
    return run_of(folder).step_folders()[::-1] or [folder]


def _checkpoint(run: RunFolder, folder: Path, served: Path) -> JsonObject:
    best = run.pointer("best") or {}
    return {
        "step": max(step_of(folder), 0),
        "val_loss": run.figures_of(folder).get("val_loss"),
        "is_best": best.get("path") == folder.name,
        "is_served": folder.resolve() == served.resolve(),
    }


def setting_facts(defaults: SamplingParams) -> list[JsonObject]:
    """The sampling settings that a request may change, as they are declared."""
    values: dict[str, Any] = asdict(defaults)
    return [
        {**{key: getattr(setting, key) for key in LIMITS}, "default": values[setting.name]}
        for setting in SamplingParams.settings()
        if setting.name not in NOT_ON_THE_PAGE
    ]


def training_facts(folder: Path) -> JsonObject:
    """The loss curves of the run, and the sample that was written at each evaluation.

    A sample continues the same beginning of the held-out text (or answers the same question).
    """
    records = list(read_log(run_of(folder).log_path))
    curves = LossCurves.of(records)
    return {
        "train": curves.train,
        "validation": curves.validation,
        "best_step": curves.best[0] if curves.best else None,
        "samples": [_sample(record) for record in records if _has_sample(record)],
    }


def _has_sample(record: LogRecord) -> bool:
    step, text = record.get("step"), record.get("sample")
    return record.get("kind") == "evaluation" and isinstance(step, int) and isinstance(text, str)


def _sample(record: LogRecord) -> JsonObject:
    return {"step": record["step"], "text": record["sample"]}
