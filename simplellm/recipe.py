"""Which settings suit a text, a device and a budget: the numbers come from the trials in docs/recipe.md.

Pure functions, without torch; whatever a person set stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simplellm.config import ModelConfig, TrainConfig

DEFAULT_BUDGET_SECONDS = 60.0
SMALL_TEXT_BYTES = 200_000  # up to here a text is seen many times over, and regularisation decides
RESEGMENTED_TEXT_BYTES = 4_000_000  # larger texts are hardly seen twice, and would not fit the cache of words


def choose(train_bytes: int, given: Mapping[str, Any]) -> tuple[ModelConfig, TrainConfig]:
    """The configs for a text of `train_bytes`; `given` (setting names and values) overrides the recipe."""
    model_names = {item.name for item in ModelConfig.settings()}
    train_names = {item.name for item in TrainConfig.settings()}
    chosen = {**recipe(train_bytes, given), **given}
    model = ModelConfig(**{name: value for name, value in chosen.items() if name in model_names})
    train = TrainConfig(**{name: value for name, value in chosen.items() if name in train_names})
    return model, train


def recipe(train_bytes: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """What pays for a text of this size."""
    settings: dict[str, Any] = {}
    if all(given.get(limit) is None for limit in ("budget", "max_steps", "max_epochs")):
        settings["budget"] = DEFAULT_BUDGET_SECONDS
    if train_bytes < SMALL_TEXT_BYTES:
        settings |= {
            "vocab_size": 1536,
            "bpe_dropout": 0.25,
            "dropout": 0.3,
            "ema_decay": 0.97,
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
