"""Which settings suit a text, a device and a budget: the numbers come from the trials in docs/recipe.md.

Pure functions, without torch; whatever a person set stands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from simplellm.config.architectures import ARCHITECTURES
from simplellm.config.model import ModelConfig
from simplellm.config.setting import Setting
from simplellm.config.training import TrainConfig
from simplellm.errors import SettingError

DEFAULT_BUDGET_SECONDS = 60.0
FINE_TUNING_RATE = 0.3  # share of the usual rates (guess)
SMALL_TEXT_BYTES = 200_000  # up to here a text is seen many times over, and regularisation decides
SMALLEST_TUNED_BYTES = 18_000
MOST_EPOCHS_OF_SMALL_TEXT = 85.0  # beyond, held-out loss rises (300 steps on 18 kB)
RESEGMENTED_TEXT_BYTES = (
    4_000_000  # larger texts are hardly seen twice, and would not fit the cache of words
)
HEAD_SIZE = 64  # dimensions of an attention head: enough for sharp attention
SHAPES = (  # from this many seconds on: blocks, width
    (0, 4, 128),
    (45, 4, 192),
    (200, 6, 192),
    (400, 6, 256),
)
SECONDS_PER_MEGABYTE = (
    40.0  # with more time for each byte something is dropped, with every doubling more
)
DROPOUT_PER_DOUBLING, MOST_DROPOUT = 0.05, 0.2
RESEGMENTED_FROM_DOUBLINGS = 1.0  # from here on BPE-dropout pays


def choose(
    train_bytes: int, given: Mapping[str, Any], base: ModelConfig | None = None, speed: float = 1.0
) -> tuple[ModelConfig, TrainConfig]:
    """The configs for a text of `train_bytes`; `given` (setting names and values) overrides the recipe.

    `speed`: see `recipe`. `base` is the model that training goes on from, whose shape stays; SettingError for a
    setting that would change it.
    """
    model_names = {item.name for item in ModelConfig.settings()}
    train_names = {item.name for item in TrainConfig.settings()}
    given = {name: _setting(name).check(value) for name, value in given.items()}
    known = {**(base.to_mapping() if base else {}), **given}
    chosen = {**recipe(train_bytes, known, speed), **given}
    if "n_head" in chosen and "n_head" not in given:
        chosen["n_head"] = _fitting_heads(
            chosen.get("n_embd", ModelConfig.setting("n_embd").default), chosen["n_head"]
        )
    train = {name: value for name, value in chosen.items() if name in train_names}
    if base is None:
        model = ModelConfig(
            **{name: value for name, value in chosen.items() if name in model_names}
        )
    else:
        model = _shape_of(base, chosen.get("dropout", base.dropout), given)
        train = _fine_tuning(train, given)
    if train.get("r_drop") and not model.dropout:
        if "r_drop" in given:
            raise SettingError(
                "r_drop compares passes with different dropout, got dropout 0",
                fix="use --dropout 0.1 or more",
            )
        train["r_drop"] = 0.0
    if train.get("freeze", 0) > model.n_layer:
        raise SettingError(
            f"freeze is at most n_layer, got {train['freeze']} of {model.n_layer}",
            fix="use a lower --freeze",
        )
    return model, TrainConfig(**train)


def _setting(name: str) -> Setting:
    return (ModelConfig if name in ModelConfig.names() else TrainConfig).setting(name)


def _fitting_heads(n_embd: int, wish: int) -> int:
    """The most heads up to `wish` that cut a width a person chose into heads of even size."""
    return next((heads for heads in range(wish, 1, -1) if n_embd % (2 * heads) == 0), 1)


def _shape_of(base: ModelConfig, dropout: float, given: Mapping[str, Any]) -> ModelConfig:
    for name, value in base.to_mapping().items():
        if name != "dropout" and given.get(name, value) != value:
            raise SettingError(
                f"{name} is {value} in the model that training goes on from, got {given[name]}",
                fix="leave it out, or leave --from out",
            )
    return replace(base, dropout=dropout)


def _fine_tuning(train: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Lower rates, and nothing that only suits weights drawn anew."""
    lower = {
        name: train.get(name, TrainConfig.setting(name).default) * FINE_TUNING_RATE
        for name in ("learning_rate", "muon_learning_rate")
        if name not in given
    }
    off = {
        name: value
        for name, value in (("composition", 0.0), ("induction", False))
        if name not in given
    }
    return {**train, **lower, **off}


def recipe(train_bytes: int, given: Mapping[str, Any], speed: float = 1.0) -> dict[str, Any]:
    """What pays for a text of this size in this time. `speed` is the machine's, in that of the trials' (2 CPU cores)."""
    settings: dict[str, Any] = {
        "beta2": 0.95,
        "weight_decay": 0.0,
        "schedule": "wsd",
        "tie_embeddings": False,
    }
    if all(given.get(limit) is None for limit in ("budget", "max_steps", "max_epochs")):
        settings["budget"] = DEFAULT_BUDGET_SECONDS
    seconds = float(given.get("budget") or settings.get("budget") or DEFAULT_BUDGET_SECONDS) * speed
    if train_bytes < SMALL_TEXT_BYTES:
        settings |= _small(train_bytes)
        if given.get("max_steps") is None:
            settings["max_epochs"] = _most_epochs(train_bytes)
    else:
        settings |= _large(train_bytes, seconds)
    if given.get("tokenizer") == "gpt2":
        settings |= {"bpe_dropout": 0.0, "composition": 0.0}
    architecture = given.get("architecture", ModelConfig.setting("architecture").default)
    if given.get("optimizer") == "adamw" or not ARCHITECTURES[architecture].has_tuned_rates:
        settings |= {"weight_decay": 0.1, "learning_rate": 1e-3}
    settings["n_head"] = max(
        int(given.get("n_embd", settings["n_embd"])) // HEAD_SIZE, given.get("n_kv_head") or 1
    )
    settings["batch_size"] = max(
        settings.pop("tokens") // int(given.get("block_size", settings["block_size"])), 1
    )
    return settings


def _small(train_bytes: int) -> dict[str, Any]:
    """Seen many times over: what keeps the model from learning it by heart decides. More steps only hurt."""
    return {
        "n_embd": 128,
        "block_size": 128 if train_bytes >= SMALLEST_TUNED_BYTES else 64,
        "vocab_size": 1536,
        "tokens": 1024,
        "dropout": 0.3,
        "r_drop": 2.0,
        "bpe_dropout": 0.35,
        "renaming": 0.3,
        "induction": True,
        "token_noise": 0.15,
        "composition": 1.0,
        "learning_rate": 3e-3,
        "muon_learning_rate": 0.04,
        "ema_decay": 0.9,
        "patience": 10,
    }


def _most_epochs(train_bytes: int) -> float:
    """Where held-out loss begins to rise. A very small text is soon gone through, but its model takes steps to begin."""
    return MOST_EPOCHS_OF_SMALL_TEXT * math.sqrt(
        max(SMALLEST_TUNED_BYTES / max(train_bytes, 1), 1.0)
    )


def _large(train_bytes: int, seconds: float) -> dict[str, Any]:
    """Seen a few times: time decides. The more there is, the larger the model; the more for each byte, the more is dropped."""
    n_layer, n_embd = next(shape for least, *shape in reversed(SHAPES) if seconds >= least)
    doublings = math.log2(max(seconds / (train_bytes / 1e6) / SECONDS_PER_MEGABYTE, 1e-9))
    settings: dict[str, Any] = {
        "n_layer": n_layer,
        "n_embd": n_embd,
        "block_size": 512,
        "vocab_size": 1024,
        "tokens": 2048,
        "dropout": round(min(max(DROPOUT_PER_DOUBLING * doublings, 0.0), MOST_DROPOUT), 2),
        "induction": True,
        "learning_rate": 1e-2 if n_layer == 4 else 6e-3,
        "muon_learning_rate": 0.02,
        "ema_decay": 0.98,
    }
    if train_bytes >= RESEGMENTED_TEXT_BYTES:
        return settings | {"vocab_size": 2048}
    settings["renaming"] = 0.5
    return settings | ({"bpe_dropout": 0.05} if doublings >= RESEGMENTED_FROM_DOUBLINGS else {})
