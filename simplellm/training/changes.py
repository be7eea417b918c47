"""Whether a resumed run still is the run that was started: its settings, its text, its tokenizer, its model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from simplellm.checkpoint.hugging_face import to_hub_config
from simplellm.config.model import ModelConfig
from simplellm.config.setting import show
from simplellm.config.training import TrainConfig
from simplellm.data.corpus import Corpus
from simplellm.data.tokenizer import Tokenizer
from simplellm.errors import CheckpointError, SettingError

EXTENDABLE = (
    "max_steps",
    "log_interval",
    "eval_interval",
    "patience",
    "budget",
)  # a resumed run may change these
FIXED = (
    "tokenizer",
    "optimizer",
    "composition",
    "ema_decay",
    "freeze",
    "val_fraction",
)  # what is saved would not fit another
ACCEPT = "--accept-changes"


def with_settings(
    known: Mapping[str, Any],
    given_then: Mapping[str, Any],
    config: TrainConfig,
    given: Mapping[str, Any],
    accept: bool,
) -> tuple[TrainConfig, list[str]]:
    """The run's config with what may change, and the changes that are more than that.

    SettingError for a setting that would make it another run; with `accept`, only where what is saved could not go on with it.
    """
    changes = []
    for name, value in given.items():
        if name in EXTENDABLE or value in (known[name], given_then.get(name)):
            continue
        can_change = name in TrainConfig.names() and name not in FIXED
        if not (accept and can_change):
            fix = "leave it out, or start a new run"
            raise SettingError(
                f"this run was started with {name} {show(known[name])}, got {show(value)}",
                fix=f"{fix}; {ACCEPT} takes it" if can_change else fix,
            )
        changes.append(f"{name} {show(known[name])} became {show(value)}")
    taken = {
        name: value
        for name, value in given.items()
        if name in TrainConfig.names() and name not in FIXED
    }
    taken = {
        name: value
        for name, value in taken.items()
        if name in EXTENDABLE or value != given_then.get(name)
    }
    return dataclasses.replace(config, **taken), changes


def texts(info: Mapping[str, Any], corpus: Corpus, val_corpus: Corpus | None) -> list[str]:
    """What changed in the texts since run.json was written; by their bytes, wherever they lie now."""
    now = [*corpus.fingerprint.values(), *(val_corpus.fingerprint.values() if val_corpus else ())]
    then = [*info["fingerprint"].values(), *(info["val_fingerprint"] or {}).values()]
    if now == then:
        return []
    names = [
        name
        for name, digest in corpus.fingerprint.items()
        if digest not in info["fingerprint"].values()
    ]
    return [f"the text changed since the run was started: {', '.join(names) or 'other files'}"]


def tokenizer(info: Mapping[str, Any], saved: Tokenizer) -> list[str]:
    is_same = info.get("tokenizer_fingerprint") in (None, saved.fingerprint)
    return (
        []
        if is_same
        else ["the tokenizer in the checkpoint is not the one the run was started with"]
    )


def model(started: ModelConfig, saved: ModelConfig) -> list[str]:
    """In what the model of the checkpoint differs from that of run.json; dropout is none of its shape."""
    then, now = (
        to_hub_config(dataclasses.replace(config, dropout=0.0), 0) for config in (started, saved)
    )
    keys = [key for key in sorted({*then, *now}) if then.get(key) != now.get(key)]
    words = [f"{key} {then.get(key)} became {now.get(key)}" for key in keys]
    return (
        [f"the model in the checkpoint is not the one the run was started with: {', '.join(words)}"]
        if keys
        else []
    )


def refuse(changes: Sequence[str], accept: bool) -> None:
    """CheckpointError that names all changes, unless they are accepted."""
    if changes and not accept:
        raise CheckpointError(
            "; ".join(changes),
            fix=f"restore it, start a new run, or go on all the same with {ACCEPT}",
        )


def record(info: Mapping[str, Any], changes: Sequence[str], step: int) -> dict[str, Any]:
    """What run.json keeps of the changes that were accepted, after those of earlier times."""
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    earlier = info.get("accepted_changes")
    entries = [
        *(earlier if isinstance(earlier, list) else []),
        *({"what": what, "when": when, "step": step} for what in changes),
    ]
    return {"accepted_changes": entries} if entries else {}
