"""Settings of a training that continues from a trained model. Pure functions, without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from simplellm.config.model import ModelConfig
from simplellm.config.overfit import OVERFIT
from simplellm.config.setting import ExplicitSettings, flag_of, show
from simplellm.errors import SettingError

SMALL_TEXT_BYTES = 200_000  # below, a text is read many times, and regularization decides
# An open model knows its language already: small steps, few epochs, and none of the augmentations
# that keep a small model from learning a small text by heart.
OPEN_MODEL: dict[str, Any] = {
    "block_size": 256,  # of the context while it is trained (docs/open-models.md)
    "tokens": 512,  # in a step
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
# A small model of this project: see docs/recipe.md, "Starting warm".
OWN_MODEL: dict[str, Any] = {
    "r_drop": 0.0,
    "bpe_dropout": 0.0,
    "renaming": 0.0,
    "composition": 0.0,
    "induction": False,
}
OWN_EPOCHS = 12.0  # of a small text: the better the base, the sooner it overfits (measured)
OWN_TUNED_BYTES = 18_000  # from which a smaller text may be read more often
OWN_SMALL_TEXT: dict[str, Any] = {
    "block_size": 256,
    "tokens": 1024,
    "dropout": 0.1,
    "token_noise": 0.05,
    "learning_rate": 1e-3,
    "muon_learning_rate": 0.006,
    "ema_decay": 0.9,
}
OWN_LARGER_TEXT: dict[str, Any] = {
    "block_size": 512,
    "tokens": 2048,
    "learning_rate": 3e-3,
    "muon_learning_rate": 0.01,
    "ema_decay": 0.98,
}
# Bits of the base on a text, divided by those of bz2, below which starting from the base pays: it
# did up to 1.6 and 1.4, and not at 2.4 and 2.5 (measured: docs/recipe.md).
WARM_RATIO = 1.5
WARM_RATIO_OF_SMALL_TEXT = 2.0
# Adapters start at zero, so their best rate is higher than that of whole weights. SmolLM2-135M
# after 16 steps on the-verdict.txt had 1.033 bits/byte at 3e-4, 0.962 at 1e-3 and 0.892 at 3e-3;
# the highest was not tried in a long training.
LORA: dict[str, Any] = {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.0}
# Settings of a new model that a trained one cannot follow, and what they do.
FOR_NEW_MODELS = {
    "composition": "composes new embeddings",
    "induction": "sets new weights",
    "overfit": "shows how a new model memorises",
}


def fine_tuning(
    base: ModelConfig,
    chosen: Mapping[str, Any],
    train: Mapping[str, Any],
    given: Mapping[str, Any],
    is_open: bool,
    train_bytes: int,
    for_data: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[ModelConfig, dict[str, Any]]:
    """The model and the training settings for `base`; those in `given` are kept.

    chosen: settings by the recipe for a new model. train: those of them that concern training.
    for_data: what differs for conversations. SettingError where `given` has another shape than
    `base`.
    """
    changed = dict(OPEN_MODEL) if is_open else _own_model(train_bytes, chosen, given)
    changed |= for_data
    if given.get("lora"):
        changed |= LORA
    if given.get("overfit"):
        changed |= OVERFIT
    block_size, tokens = changed.pop("block_size"), changed.pop("tokens")
    dropout = changed.pop("dropout", base.dropout)
    wanted = int(given.get("block_size") or min(base.block_size, block_size))
    model = _model_like(base, {**given, "block_size": base.block_size})
    if wanted > base.positions:
        raise SettingError(
            f"the model that training goes on from has {base.positions} positions, "
            f"got block_size {wanted}",
            fix=f"--block-size {base.positions} or less, or leave --from out",
        )
    model = replace(model.with_context(wanted), dropout=given.get("dropout", dropout))
    changed |= {"batch_size": max(tokens // model.block_size, 1)}
    if "max_steps" in given:
        changed["max_epochs"] = None
    return model, {**train, **_not_given(changed, given)}


def _own_model(
    train_bytes: int, chosen: Mapping[str, Any], given: ExplicitSettings
) -> dict[str, Any]:
    """The settings for a model of this project. The schedule is that of the recipe."""
    if train_bytes >= SMALL_TEXT_BYTES:
        return {**OWN_MODEL, "dropout": chosen["dropout"], **OWN_LARGER_TEXT}
    limits = {} if "max_steps" in given else {"max_epochs": epochs_of_small_text(train_bytes)}
    return {**OWN_MODEL, **OWN_SMALL_TEXT, **limits}


def epochs_of_small_text(train_bytes: int) -> float:
    """Passes over a text under SMALL_TEXT_BYTES that a model of this project is trained for."""
    return OWN_EPOCHS * math.sqrt(max(OWN_TUNED_BYTES / max(train_bytes, 1), 1.0))


def contradiction(base: ModelConfig, given: Mapping[str, Any]) -> str:
    """Why `given` settings ask for a new model instead of `base`; empty where they do not."""
    for name, value in base.to_mapping().items():
        if name in ("dropout", "block_size") or given.get(name) in (None, value):
            continue
        return f"{flag_of(name)} {show(given[name])}, the base model has {show(value)}"
    if (given.get("block_size") or 0) > base.positions:
        return f"--block-size {given['block_size']}, the base model has {base.positions} positions"
    if given.get("tokenizer", "bpe") != "bpe":
        return f"--tokenizer {given['tokenizer']}, the base model has its own"
    for name, effect in FOR_NEW_MODELS.items():
        if given.get(name):
            return f"{flag_of(name)} {effect}"
    return ""


def pays_to_start_warm(bits_per_byte: float, compressed_bits: float, train_bytes: int) -> bool:
    """Whether a training from a base model ends better than one from random weights.

    bits_per_byte: of the base on a sample of the text. compressed_bits: of its end, compressed by
    bz2 that has seen the text before; how well a new model learns a text follows from that.
    """
    is_small = train_bytes < SMALL_TEXT_BYTES
    ratio = WARM_RATIO_OF_SMALL_TEXT if is_small else WARM_RATIO
    return bits_per_byte < ratio * compressed_bits


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
