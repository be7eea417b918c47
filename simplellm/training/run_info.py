"""What run.json says of a run: what it is made of, and by which text, settings and versions it is known again."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

from simplellm.checkpoint.run import Run
from simplellm.config.model import ModelConfig
from simplellm.config.setting import current_names
from simplellm.config.training import TrainConfig
from simplellm.data.corpus import Corpus, read_corpus
from simplellm.data.prepared import Prepared
from simplellm.device import describe
from simplellm.errors import CheckpointError, SettingError
from simplellm.training.trainer import Trainer

REPORTED_PACKAGES = ("simplellm", "torch", "tiktoken", "rustbpe", "numpy", "safetensors")


@dataclass(frozen=True)
class Sources:
    """What a run is trained on, as named on the command line."""

    texts: tuple[str, ...]
    val_data: str | None = None
    encoding: str = "utf-8"

    def read(self, stdin: BinaryIO | None = None) -> tuple[Corpus, Corpus | None]:
        corpus = read_corpus(self.texts, self.encoding, stdin)
        return corpus, read_corpus([self.val_data], self.encoding, stdin) if self.val_data else None


def run_info(
    trainer: Trainer,
    sources: Sources,
    given: Mapping[str, Any],
    corpus: Corpus,
    val_corpus: Corpus | None,
    command: Sequence[str],
    base_folder: Path | None,
) -> dict[str, Any]:
    """What run.json says of a run that begins, but for its model and training configs."""
    return {
        "started_at": datetime.now(timezone.utc).isoformat(timespec="microseconds"),
        "command": list(command),
        "texts": absolute(sources.texts),
        "val_data": str(Path(sources.val_data).resolve()) if sources.val_data else None,
        "encoding": sources.encoding,
        "from": str(base_folder.resolve()) if base_folder else None,
        **corpus_info(corpus, val_corpus, trainer.data.prepared),
        "given": dict(given),
        "parameters": trainer.model.n_parameters,
        "device": describe(trainer.device, trainer.runtime.precision),
        "world_size": trainer.world.size,
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in REPORTED_PACKAGES},
        },
    }


def corpus_info(corpus: Corpus, val_corpus: Corpus | None, prepared: Prepared) -> dict[str, Any]:
    """What run.json says of the text, by which a resumed run knows it again."""
    return {
        "fingerprint": corpus.fingerprint,
        "files": [
            {
                "path": absolute((source.name,))[0],
                "sha256": corpus.fingerprint[source.name],
                "characters": characters,
            }
            for source, characters in zip(corpus.sources, corpus.characters, strict=True)
        ],
        "prepared": prepared.folder.name,
        "val_fingerprint": val_corpus.fingerprint if val_corpus else None,
        "tokenizer_fingerprint": prepared.tokenizer.fingerprint,
    }


def absolute(texts: tuple[str, ...]) -> list[str]:
    return [str(Path(text).resolve()) if Path(text).exists() else text for text in texts]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def recorded(
    run: Run, info: Mapping[str, Any]
) -> tuple[Sources, dict[str, Any], ModelConfig, TrainConfig]:
    """The sources, given settings and configs in run.json, all by current setting names.

    CheckpointError where one of them is missing or wrong.
    """
    try:
        sources = Sources(tuple(info["texts"]), info["val_data"], info["encoding"])
        dict(info["fingerprint"]), dict(info["val_fingerprint"] or {})
        return (
            sources,
            current_names(info["given"], [*ModelConfig.settings(), *TrainConfig.settings()]),
            ModelConfig.from_mapping(info["model"]),
            TrainConfig.from_mapping(info["training"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, SettingError) as error:
        fix = f"start a new run; train TEXT --from {run.name} goes on from its weights"
        raise CheckpointError(f"{run.path / 'run.json'} is damaged: {error}", fix=fix) from error
