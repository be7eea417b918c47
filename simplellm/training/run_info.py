"""run.json: the sources, settings, configs, text digests and versions of a run."""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from simplellm.base.packaged import BASE, is_base
from simplellm.checkpoint.run import RunFolder
from simplellm.config.model import ModelConfig
from simplellm.config.setting import ExplicitSettings, current_names
from simplellm.config.training import TrainConfig
from simplellm.data.conversations.summary import total
from simplellm.data.prepared_corpus import Prepared
from simplellm.device import describe
from simplellm.errors import CheckpointError, SettingError
from simplellm.model.lora import adapted_tables
from simplellm.storage.files import sha256_of
from simplellm.storage.json_files import JsonObject
from simplellm.training.sources import Corpora, Sources, absolute_paths
from simplellm.training.trainer import Trainer

REPORTED_PACKAGES = ("simplellm", "torch", "tiktoken", "rustbpe", "numpy", "safetensors")
WEIGHTS_NAME = "model.safetensors"  # in the folder of a model
TRAINED_TOKENS = "trained_tokens"  # ids of the tokens that a LoRA run trains beside its adapters
DAMAGED = (KeyError, TypeError, ValueError, AttributeError, SettingError)
Facts = Mapping[str, Any]  # keys of run.json with their JSON values


@dataclass(frozen=True)
class RunInfo:
    """The content of a run.json.

    given: settings set by the user. model, training: the configs in use. facts: all keys of the
    file, unknown ones too, which stay as they are; those of given, model and training are replaced.
    """

    sources: Sources
    given: ExplicitSettings
    model: ModelConfig
    training: TrainConfig
    facts: Facts = field(default_factory=dict)

    @property
    def text_digests(self) -> list[str]:
        """SHA-256 of the training texts."""
        return list(self.facts["fingerprint"].values())

    @property
    def val_digests(self) -> list[str]:
        """SHA-256 of a separate validation text."""
        return list((self.facts["val_fingerprint"] or {}).values())

    @property
    def tokenizer_fingerprint(self) -> str | None:
        return self.facts.get("tokenizer_fingerprint")

    def with_facts(self, facts: Facts) -> RunInfo:
        return replace(self, facts={**self.facts, **facts})

    def to_mapping(self) -> JsonObject:
        return {
            **self.facts,
            "given": dict(self.given),
            "model": self.model.to_mapping(),
            "training": self.training.to_mapping(),
        }

    @classmethod
    def of(cls, facts: Facts) -> RunInfo:
        """The info in the content of a run.json; an exception in DAMAGED where it is damaged."""
        dict(facts["fingerprint"]), dict(facts["val_fingerprint"] or {})
        settings = [*ModelConfig.settings(), *TrainConfig.settings()]
        return cls(
            Sources.from_facts(facts),
            current_names(facts["given"], settings),
            ModelConfig.from_mapping(facts["model"]),
            TrainConfig.from_mapping(facts["training"]),
            facts,
        )

    @classmethod
    def read(cls, run: RunFolder) -> RunInfo:
        """The info of a run, by current setting names; CheckpointError where it is damaged."""
        facts = run.read_info()
        if "imported" in facts:
            raise CheckpointError(
                f"run {run.name} was imported, not trained here",
                fix=f"train TEXT --from {run.name} trains a copy of it",
            )
        try:
            return cls.of(facts)
        except DAMAGED as error:
            fix = f"start a new run; train TEXT --from {run.name} continues from its weights"
            path = run.path / "run.json"
            what = f"{error} is missing" if isinstance(error, KeyError) else error
            raise CheckpointError(f"{path} is damaged: {what}", fix=fix) from error


def text_facts(corpora: Corpora, prepared: Prepared, val_fraction: float) -> Facts:
    """What identifies the texts and the tokenizer of a run, and which part is held out."""
    corpus = corpora.train
    files = [
        {
            "path": absolute_paths([source.name])[0],
            "sha256": corpus.fingerprint[source.name],
            "characters": characters,
            **({"skipped_lines": sorted(source.skipped_lines)} if source.skipped_lines else {}),
            **({"left_out": [list(part) for part in source.left_out]} if source.left_out else {}),
        }
        for source, characters in zip(corpus.sources, corpus.characters, strict=True)
    ]
    return {
        "fingerprint": corpora.fingerprint,
        "files": [*files, *_conversation_files(corpora)],
        "prepared": prepared.folder.name,
        "val_fingerprint": corpora.val_fingerprint,
        "tokenizer_fingerprint": prepared.tokenizer.fingerprint,
        "validation_text": corpora.describe_validation(val_fraction),
        "corpus_bytes": corpora.n_bytes,
        **({"copied_share": corpus.copied_share} if corpus.copied_share else {}),
        **_conversation_facts(corpora),
    }


def _conversation_files(corpora: Corpora) -> list[JsonObject]:
    return [
        {
            "path": absolute_paths([file.source.name])[0],
            "sha256": file.source.sha256(),
            "characters": sum(one.n_characters for one in file.conversations),
            "format": file.summary.format,
        }
        for file in (corpora.conversations.files if corpora.conversations else ())
    ]


def _conversation_facts(corpora: Corpora) -> Facts:
    """What was read from the files of conversations."""
    data = corpora.conversations
    if data is None:
        return {}
    summary = total(file.summary for file in data.files)
    counts = {"train": len(data.split.train), "held_out": len(data.split.held_out)}
    return {"conversations": {**asdict(summary), **counts, "lengths": asdict(data.lengths)}}


def start_name(base_folder: Path | None) -> str | None:
    """What `from` in run.json is: `base`, the path of another model, None for random weights."""
    if base_folder is None:
        return None
    return BASE if is_base(base_folder) else str(base_folder.resolve())


def start_facts(
    trainer: Trainer, command: Sequence[str], base_folder: Path | None, choice: str = ""
) -> Facts:
    """When, how, from which weights and with what a run was started.

    choice: why the weights were chosen, where the user did not name them.
    """
    weights = base_folder / WEIGHTS_NAME if base_folder else None
    return {
        "started_at": datetime.now(timezone.utc).isoformat(timespec="microseconds"),
        "command": list(command),
        "from": start_name(base_folder),
        **({"from_sha256": sha256_of(weights)} if weights and weights.is_file() else {}),
        **({"start": choice} if choice else {}),
        "parameters": trainer.model.n_parameters,
        **_lora_facts(trainer),
        **environment_facts(trainer),
    }


def _lora_facts(trainer: Trainer) -> Facts:
    """What is trained of the model, and the name of the model that adapters belong to."""
    if not trainer.config.lora:
        return {}
    n_trained = sum(weight.numel() for weight in trainer.optimizer.weights)
    facts: dict[str, Any] = {
        "trained_parameters": n_trained,
        "adapter_base": trainer.output.saver.base_name,
    }
    for _, table in adapted_tables(trainer.model):
        facts[TRAINED_TOKENS] = table.new_ids.tolist()
    return facts


def trained_tokens(facts: Mapping[str, Any], n_tokens: int) -> tuple[int, ...]:
    """Tokens whose rows a LoRA run trains; CheckpointError where run.json has something else."""
    ids = facts.get(TRAINED_TOKENS, [])
    if isinstance(ids, list) and all(type(id) is int and 0 <= id < n_tokens for id in ids):
        return tuple(ids)
    raise CheckpointError(f"run.json is damaged: {TRAINED_TOKENS} is {str(ids)[:60]}")


def environment_facts(trainer: Trainer) -> Facts:
    """Device, processes and package versions of a training."""
    return {
        "device": describe(trainer.device, trainer.runtime.precision),
        "world_size": trainer.world.size,
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in REPORTED_PACKAGES},
        },
    }


@functools.cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
