"""Changes of a resumed run: its settings, its text, its tokenizer, its model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime, timezone

from simplellm.checkpoint.hugging_face import to_hub_config
from simplellm.config.model import ModelConfig
from simplellm.config.setting import AUTO, ExplicitSettings, SettingValue, show
from simplellm.config.training import TrainConfig
from simplellm.data.text_files import shown_name
from simplellm.data.tokenizer import Tokenizer
from simplellm.errors import CheckpointError, SettingError
from simplellm.training.run_info import Facts, RunInfo
from simplellm.training.sources import Corpora

# A resumed run may change these.
EXTENDABLE = ("max_steps", "max_epochs", "log_interval", "eval_interval", "patience", "budget")
# It can never change these: the saved state, the split of the text or other settings depend on it.
FIXED = (
    "tokenizer", "optimizer", "composition", "ema_decay", "freeze", "val_fraction", "overfit",
    "lora", "lora_alpha", "lora_targets",
)  # fmt: skip
ACCEPT = "--accept-changes"


def with_settings(
    info: RunInfo, given: ExplicitSettings, accept: bool
) -> tuple[TrainConfig, list[str]]:
    """The run's config with the settings `given` now, and descriptions of changes to accept.

    SettingError for a change that makes it another run; with `accept`, only for one that the saved
    state does not allow.
    """
    known = {**info.model.to_mapping(), **info.training.to_mapping()}
    changes = []
    for name, value in given.items():
        if name in EXTENDABLE or value == known[name] or is_as_given(info, name, value):
            continue
        can_change = name in TrainConfig.names() and name not in FIXED
        if not (accept and can_change):
            fix = "leave it out, or start a new run"
            raise SettingError(
                f"this run was started with {name} {show(known[name])}, got {show(value)}",
                fix=f"{fix}, or add {ACCEPT}" if can_change else fix,
            )
        changes.append(f"{name} {show(known[name])} became {show(value)}")
    applied = {
        name: value
        for name, value in given.items()
        if name in TrainConfig.names()
        and name not in FIXED
        and (name in EXTENDABLE or not is_as_given(info, name, value))
    }
    return TrainConfig.from_mapping({**info.training.to_mapping(), **applied}), changes


def is_as_given(info: RunInfo, name: str, value: SettingValue) -> bool:
    """Whether the run was started with this value, which may be `auto`."""
    if name not in info.given:
        return value in (None, AUTO)
    return value == info.given[name]


def of_texts(info: RunInfo, corpora: Corpora) -> list[str]:
    """Changes of the content of the texts since the start; their paths may differ."""
    now = [*corpora.fingerprint.values(), *(corpora.val_fingerprint or {}).values()]
    then = [*info.text_digests, *info.val_digests]
    if now == then:
        return []
    digests = corpora.fingerprint.items()
    names = [shown_name(name) for name, digest in digests if digest not in info.text_digests]
    return [f"the text changed since the run was started: {', '.join(names) or 'other files'}"]


def of_world(info: RunInfo, world_size: int) -> list[str]:
    """A change of the number of processes, which changes the tokens of a step."""
    started = info.facts.get("world_size", 1)
    if started == world_size:
        return []
    return [
        f"the run was started with {started} process{'es' * (started != 1)}, got {world_size} "
        f"(torchrun --nproc-per-node {started} starts as many)"
    ]


def of_tokenizer(info: RunInfo, saved: Tokenizer) -> list[str]:
    """A change of the checkpoint's tokenizer; runs of early versions do not record theirs."""
    is_same = info.tokenizer_fingerprint in (None, saved.fingerprint)
    if is_same:
        return []
    return ["the tokenizer in the checkpoint is not the one the run was started with"]


def of_model(started: ModelConfig, saved: ModelConfig) -> list[str]:
    """Differences between the checkpoint's model and that of run.json, apart from dropout."""
    then = to_hub_config(dataclasses.replace(started, dropout=0.0), 0)
    now = to_hub_config(dataclasses.replace(saved, dropout=0.0), 0)
    keys = [key for key in sorted({*then, *now}) if then.get(key) != now.get(key)]
    if not keys:
        return []
    differences = ", ".join(f"{key} {then.get(key)} became {now.get(key)}" for key in keys)
    return [f"the model in the checkpoint is not the one the run was started with: {differences}"]


def refuse(changes: Sequence[str], accept: bool) -> None:
    """CheckpointError that names all changes, unless they are accepted."""
    if changes and not accept:
        raise CheckpointError(
            "; ".join(changes),
            fix=f"restore it, start a new run, or resume nevertheless with {ACCEPT}",
        )


def extended(before: TrainConfig, now: TrainConfig) -> list[str]:
    """Changes of settings that a resumed run may change and that affect its weights."""
    then, after = before.to_mapping(), now.to_mapping()
    return [
        f"{name} {show(then[name])} became {show(after[name])}"
        for name in EXTENDABLE
        if name != "log_interval" and then[name] != after[name]
    ]


def part_facts(info: RunInfo, changes: Sequence[str], step: int) -> Facts:
    """The parts of a resumed run for run.json that were trained with changes from `step` on."""
    earlier = info.facts.get("resumed")
    parts = list(earlier) if isinstance(earlier, list) else []
    if changes:
        parts.append({"step": step, "changes": list(changes)})
    return {"resumed": parts} if parts else {}


def accepted_facts(info: RunInfo, changes: Sequence[str], step: int) -> Facts:
    """The accepted changes for run.json: earlier ones, then those accepted at `step`."""
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    earlier = info.facts.get("accepted_changes")
    entries = [
        *(earlier if isinstance(earlier, list) else []),
        *({"what": what, "when": when, "step": step} for what in changes),
    ]
    return {"accepted_changes": entries} if entries else {}
