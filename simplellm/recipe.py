"""Which settings suit a text, a device and a budget: the numbers come from the trials in docs/recipe.md.

Pure functions, without torch; whatever a person set stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from simplellm.config import ModelConfig, TrainConfig
from simplellm.errors import SettingError

DEFAULT_BUDGET_SECONDS = 60.0
FINE_TUNING_RATE = 0.3  # share of the usual rates (guess)
SMALL_TEXT_BYTES = 200_000  # up to here a text is seen many times over, and regularisation decides
RESEGMENTED_TEXT_BYTES = 4_000_000  # larger texts are hardly seen twice, and would not fit the cache of words


def choose(train_bytes: int, given: Mapping[str, Any], base: ModelConfig | None = None) -> tuple[ModelConfig, TrainConfig]:
    """The configs for a text of `train_bytes`; `given` (setting names and values) overrides the recipe.

    `base` is the model that training goes on from, whose shape stays; SettingError for a setting that would change it.
    """
    model_names = {item.name for item in ModelConfig.settings()}
    train_names = {item.name for item in TrainConfig.settings()}
    chosen = {**recipe(train_bytes, given), **given}
    train = {name: value for name, value in chosen.items() if name in train_names}
    if base is None:
        model = ModelConfig(**{name: value for name, value in chosen.items() if name in model_names})
    else:
        model = _shape_of(base, chosen.get("dropout", base.dropout), given)
        train = _fine_tuning(train, given)
    if train.get("freeze", 0) > model.n_layer:
        raise SettingError(f"freeze is at most n_layer, got {train['freeze']} of {model.n_layer}", fix="use a lower --freeze")
    return model, TrainConfig(**train)


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
    return {**train, **lower, **({} if "composition" in given else {"composition": 0.0})}


def recipe(train_bytes: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """What pays for a text of this size."""
    settings: dict[str, Any] = {}
    if all(given.get(limit) is None for limit in ("budget", "max_steps", "max_epochs")):
        settings["budget"] = DEFAULT_BUDGET_SECONDS
    if train_bytes < SMALL_TEXT_BYTES:
        settings |= {
            "vocab_size": 1536,
            "bpe_dropout": 0.35,
            "dropout": 0.4,
            "ema_decay": 0.9,
            "schedule": "wsd",
            "token_noise": 0.15,
            "composition": 1.0,
            "weight_decay": 0.0,
            "beta2": 0.95,
            "n_head": 2,
            "muon_learning_rate": 0.04,
        }
    elif train_bytes < RESEGMENTED_TEXT_BYTES:
        settings |= {"vocab_size": 1024, "ema_decay": 0.98}
    else:
        settings |= {"vocab_size": 4096, "ema_decay": 0.99}
    if given.get("tokenizer") == "gpt2":
        settings["bpe_dropout"] = 0.0
    return settings
