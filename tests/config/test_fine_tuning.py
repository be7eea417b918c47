"""Settings of a training that continues from a trained model."""

from __future__ import annotations

from typing import Any

import pytest

from simplellm.config.fine_tuning import contradiction
from simplellm.config.model import ModelConfig

BASE = ModelConfig(n_layer=6, n_head=3, n_embd=192, block_size=512, vocab_size=2048)


@pytest.mark.parametrize(
    "given",
    [
        {"n_layer": 4},
        {"n_head": 6},
        {"n_embd": 128},
        {"vocab_size": 1024},
        {"architecture": "gpt2"},
        {"tie_embeddings": False},
        {"block_size": 1024},
        {"tokenizer": "gpt2"},
        {"induction": True},
        {"composition": 1.0},
        {"overfit": True},
    ],
)
def test_a_setting_that_the_base_cannot_follow_is_named(given: dict[str, Any]) -> None:
    (name,) = given
    assert contradiction(BASE, given).startswith("--" + name.replace("_", "-"))


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"n_layer": 6, "n_embd": 192, "vocab_size": 2048, "architecture": "modern"},
        {"block_size": 128, "dropout": 0.3},
        {"induction": False, "composition": 0.0, "overfit": False},
        {"n_kv_head": None, "max_steps": 5, "learning_rate": 1e-3, "freeze": 2},
    ],
)
def test_settings_that_the_base_can_follow_do_not_contradict_it(given: dict[str, Any]) -> None:
    assert contradiction(BASE, given) == ""
