"""Settings of a training that continues from a trained model. Pure functions, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from simplellm.config.model import ModelConfig
from simplellm.config.setting import ExplicitSettings
from simplellm.config.training import TrainConfig
from simplellm.errors import SettingError

FINE_TUNING_RATE = 0.3  # share of the usual learning rates (guess)
OPEN_BLOCK = 256  # tokens of context while an open model is trained (docs/open-models.md)
OPEN_TOKENS = 512  # per step
# An open model knows its language already: small steps, few epochs, and none of the augmentations
# that keep a small model from learning a small text by heart.
OPEN_MODEL: dict[str, Any] = {
    "optimizer": "adamw",
    "learning_rate": 1e-4,  # better than 3e-5 (measured: docs/open-models.md)
    "weight_decay": 0.01,
    "schedule": "linear",
    "max_epochs": 4.0,
    "r_drop": 0.0,
    "bpe_dropout": 0.0,
    "renaming": 0.0,
    "token_noise": 0.0,
    "composition": 0.0,
    "induction": False,
    "ema_decay": 0.0,
}


def fine_tuning(
    base: ModelConfig,
    chosen: Mapping[str, Any],
    train: Mapping[str, Any],
    given: Mapping[str, Any],
    is_open: bool,
) -> tuple[ModelConfig, dict[str, Any]]:
    """The model and the training settings for `base`; those in `given` are kept.

    chosen: settings by the recipe for a new model. train: those of them that concern training.
    SettingError where `given` has another shape than `base`.
    """
    if not is_open:
        model = _model_like(base, given)
        changed = _trained_by_the_recipe(train)
        return (
            replace(model, dropout=chosen.get("dropout", base.dropout)),
            {**train, **_not_given(changed, given)},
        )
    wanted = int(given.get("block_size") or min(base.block_size, OPEN_BLOCK))
    model = _model_like(base, {**given, "block_size": base.block_size})
    if wanted > base.positions:
        raise SettingError(
            f"the model that training goes on from has {base.positions} positions, "
            f"got block_size {wanted}",
            fix=f"--block-size {base.positions}",
        )
    model = replace(model.with_context(wanted), dropout=given.get("dropout", base.dropout))
    changed = {**OPEN_MODEL, "batch_size": max(OPEN_TOKENS // model.block_size, 1)}
    if "max_steps" in given:
        changed["max_epochs"] = None
    return model, {**train, **_not_given(changed, given)}


def _not_given(changed: Mapping[str, Any], given: ExplicitSettings) -> dict[str, Any]:
    return {name: value for name, value in changed.items() if name not in given}


def _model_like(base: ModelConfig, given: ExplicitSettings) -> ModelConfig:
    """`base`; SettingError where `given` has another shape."""
    for name, value in base.to_mapping().items():
        if name != "dropout" and given.get(name, value) != value:
            raise SettingError(
                f"{name} is {value} in the model that training goes on from, got {given[name]}",
                fix="leave it out, or leave --from out",
            )
    return base


def _trained_by_the_recipe(train: Mapping[str, Any]) -> dict[str, Any]:
    """Lower learning rates, and nothing that only suits random initial weights."""
    rates = ("learning_rate", "muon_learning_rate")
    changed: dict[str, Any] = {
        name: train.get(name, TrainConfig.setting(name).default) * FINE_TUNING_RATE
        for name in rates
    }
    return changed | {"composition": 0.0, "induction": False}
