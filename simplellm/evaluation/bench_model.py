"""The model that `bench` measures: a default shape, with what was given and what fits it."""

from __future__ import annotations

from typing import Any

from simplellm.config.architectures import ARCHITECTURES
from simplellm.config.heads import fitted_shape
from simplellm.config.model import ModelConfig
from simplellm.config.setting import ExplicitSettings, SettingValue

MODEL: dict[str, SettingValue] = {
    "architecture": "gpt2",
    "n_layer": 4,
    "n_head": 4,
    "n_embd": 128,
    "block_size": 64,
    "vocab_size": 512,
}
GROUPED = "modern"  # the architecture for n_kv_head below n_head; a Qwen3 in `transformers`


def bench_model(given: ExplicitSettings, defaults: ExplicitSettings) -> ModelConfig:
    """The config of MODEL with `defaults` and `given`; SettingError for given values that clash.

    Heads, width and architecture that were not given follow those that were, so that each shape
    setting works by itself. `transformers` measures the same model.
    """
    names = ModelConfig.names()
    values: dict[str, Any] = {**MODEL, **defaults, **given}
    values |= fitted_shape(values, given)
    is_grouped = values["n_head"] != (values.get("n_kv_head") or values["n_head"])
    is_allowed = ARCHITECTURES[values["architecture"]].allows_grouped_heads
    if is_grouped and not is_allowed and "architecture" not in given:
        values["architecture"] = GROUPED
        values |= fitted_shape(values, given)
    return ModelConfig(**{name: value for name, value in values.items() if name in names})


def adjustments(config: ModelConfig, given: ExplicitSettings) -> list[str]:
    """The settings that follow from given ones, as `name value`."""
    return [
        f"{name} {getattr(config, name)}"
        for name in ("architecture", "n_head", "n_embd")
        if name not in given and getattr(config, name) != MODEL[name]
    ]
