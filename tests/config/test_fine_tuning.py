"""Settings of a training that continues from a trained model."""

from __future__ import annotations

from typing import Any

import pytest

from simplellm.config.fine_tuning import contradiction, pays_to_start_warm
from simplellm.config.model import ModelConfig
from simplellm.config.recipe import choose

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


@pytest.mark.parametrize(
    ("base", "bz2", "train_bytes", "pays"),
    [  # the texts of docs/recipe.md
        (2.11, 2.68, 18_000, True),
        (1.86, 1.68, 24_000, True),
        (2.20, 2.38, 1_000_000, True),
        (3.29, 1.28, 420_000, False),
        (3.75, 1.57, 50_000, False),
        (1.43, 1.19, 90_000, True),
        (1.79, 1.12, 135_000, True),
        (2.52, 1.57, 50_000, True),
        (1.66, 1.36, 270_000, True),
        (1.76, 1.28, 420_000, True),
    ],
)
def test_the_base_pays_where_it_predicts_a_text_almost_as_well_as_bz2(
    base: float, bz2: float, train_bytes: int, pays: bool
) -> None:
    assert pays_to_start_warm(base, bz2, train_bytes) == pays


def test_regularization_and_rates_follow_from_the_size_of_the_text() -> None:
    model, small = choose(18_000, {}, BASE)
    larger_model, larger = choose(1_000_000, {}, BASE)
    assert (small.r_drop, small.bpe_dropout, small.renaming, small.composition) == (0, 0, 0, 0)
    assert (model.dropout, small.token_noise) == (0.1, 0.05)
    assert larger_model.dropout < 0.1 and larger.token_noise == 0
    assert (small.learning_rate, small.muon_learning_rate) == (1e-3, 0.006)
    assert (larger.learning_rate, larger.muon_learning_rate) == (3e-3, 0.01)
    assert (model.block_size, model.positions, larger_model.block_size) == (256, 512, 512)


def test_a_smaller_text_is_read_more_often_up_to_a_limit_of_passes() -> None:
    passes = [choose(size, {}, BASE)[1].max_epochs or 0 for size in (2_000, 6_000, 18_000, 90_000)]
    assert passes == sorted(passes, reverse=True) and passes[-2:] == [12, 12]
    assert choose(18_000, {"max_steps": 5}, BASE)[1].max_epochs is None
