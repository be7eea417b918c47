"""Comparison of runs: their figures, the settings that differ, and which figures compare."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.run_log import LogRecord, read_log
from simplellm.config.model import ModelConfig
from simplellm.config.setting import SettingValue, current_names
from simplellm.config.training import TrainConfig
from simplellm.evaluation.advice import is_too_short
from simplellm.evaluation.curves import LossCurves
from simplellm.storage.json_files import JsonMapping, JsonObject

FIGURES = ("bits_per_byte", "val_loss", "perplexity", "accuracy", "tokens", "best_step")
FACTS = ("texts", "val_data", "from", "device", "world_size")  # of run.json, beside the settings
MOST_NAME_BYTES = 200  # file systems allow 255, and temporary names are longer


@dataclass(frozen=True)
class ComparedRun:
    """What a comparison needs of a run.

    settings: of model and training, and facts such as the text. figures: of the best checkpoint,
    None where unknown. validation_text: identity of the held-out text, None where unknown.
    curves: losses in nats per token. bits: validation loss in bits per byte.
    """

    name: str
    settings: dict[str, SettingValue]
    figures: JsonObject
    validation_text: tuple[str, ...] | None
    tokenizer: str | None
    curves: LossCurves
    bits: LossCurves

    @classmethod
    def read(cls, run: RunFolder) -> ComparedRun:
        """CheckpointError where run.json is missing or damaged."""
        info = run.read_info()
        records = list(read_log(run.log_path))
        return cls(
            run.name,
            _settings(info),
            _figures(run, info, records),
            _validation_text(info),
            info.get("tokenizer_fingerprint"),
            LossCurves.of(records),
            LossCurves.of(_in_bits(records)),
        )


def differences(runs: Sequence[ComparedRun]) -> dict[str, tuple[SettingValue, ...]]:
    """Settings that are not equal in all runs, with the value of each run."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    values = {name: tuple(run.settings.get(name) for run in runs) for name in names}
    return {name: each for name, each in values.items() if any(one != each[0] for one in each)}


def cautions(runs: Sequence[ComparedRun]) -> list[str]:
    """Why figures of these runs cannot be compared; empty where all of them can."""
    if any(run.validation_text is None for run in runs):
        return ["the validation text of a run is unknown: its figures may not be comparable"]
    if len({run.validation_text for run in runs}) > 1:
        return [
            "the validation texts differ: the figures are not comparable; score the runs on one "
            "text with `simplellm evaluate --run RUN --data FILE`"
        ]
    found = []
    if any(is_too_short(run.figures["tokens"]) for run in runs):
        found.append("a validation text is too short: differences of the figures mean nothing")
    if not has_one_tokenizer(runs):
        found.append("the tokenizers differ: compare bits per byte, not loss or perplexity")
    scored = {run.figures["tokens"] for run in runs} if has_one_tokenizer(runs) else set()
    if len(scored) > 1:
        counts = ", ".join(f"{run.name} on {run.figures['tokens']}" for run in runs)
        found.append(f"the figures come from different numbers of validation tokens: {counts}")
    return found


def has_one_tokenizer(runs: Sequence[ComparedRun]) -> bool:
    return len({run.tokenizer for run in runs}) == 1


def picture_name(runs: Sequence[ComparedRun]) -> str:
    """File name of the picture of a comparison, without its suffix."""
    name = "-".join(["compare", *(run.name for run in runs)])
    return name if len(name.encode()) <= MOST_NAME_BYTES else f"compare-{len(runs)}-runs"


def _settings(info: JsonMapping) -> dict[str, SettingValue]:
    groups = ((name, info.get(name)) for name in ("model", "training"))
    declared = [*ModelConfig.settings(), *TrainConfig.settings()]
    recorded = {key: value for _, group in groups if isinstance(group, dict)
                for key, value in group.items()}  # fmt: skip
    facts = {name: info.get(name) for name in FACTS}
    versions = info.get("versions")
    facts["torch"] = versions.get("torch") if isinstance(versions, dict) else None
    return {**current_names(recorded, declared), **{k: _plain(v) for k, v in facts.items()}}


def _plain(value: Any) -> SettingValue:
    if isinstance(value, list):
        return tuple(map(str, value))
    return value if isinstance(value, (int, float, str)) else None


def _figures(run: RunFolder, info: JsonMapping, records: Sequence[LogRecord]) -> JsonObject:
    best = run.pointer("best") or {}
    figures = {name: best.get("step" if name == "best_step" else name) for name in FIGURES}
    last = run.pointer("last") or {}
    seconds = [record["seconds"] for record in records if _is_number(record.get("seconds"))]
    return {
        **{name: value if _is_number(value) else None for name, value in figures.items()},
        "steps": last.get("step"),
        "train_seconds": max(seconds, default=None),
        "parameters": info.get("parameters"),
    }


def _validation_text(info: JsonMapping) -> tuple[str, ...] | None:
    """The digests of a separate validation text, or those of the text and the part held out."""
    own, text = info.get("val_fingerprint"), info.get("fingerprint")
    if isinstance(own, dict) and own:
        return tuple(map(str, own.values()))
    training = info.get("training")
    if not isinstance(text, dict) or not text or not isinstance(training, dict):
        return None
    return ("part", str(training.get("val_fraction")), *map(str, text.values()))


def _in_bits(records: Iterable[LogRecord]) -> Iterable[LogRecord]:
    for record in records:
        if record.get("kind") == "evaluation":
            yield {**record, "loss": record.get("bits_per_byte")}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
