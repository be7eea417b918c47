"""The recipe chooses the settings that were not given, and no others."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simplellm.config.conversations import ConversationLengths
from simplellm.config.model import ModelConfig
from simplellm.config.recipe import choose, recipe
from simplellm.config.training import TrainConfig
from simplellm.errors import SettingError

GIVEN = st.fixed_dictionaries(
    {},
    optional={
        "budget": st.floats(1, 1000), "max_steps": st.integers(1, 1000),
        "vocab_size": st.integers(257, 9000),
        "n_layer": st.integers(1, 9), "n_embd": st.sampled_from([32, 128, 512]),
        "n_head": st.sampled_from([1, 2, 8]),
        "dropout": st.floats(0, 0.9), "ema_decay": st.sampled_from([0.0, 0.5]),
        "weight_decay": st.floats(0, 1),
        "architecture": st.sampled_from(["modern", "gpt2"]), "tokenizer": st.sampled_from(["bpe",
        "gpt2"]),
        "beta2": st.floats(0, 0.99), "bpe_dropout": st.floats(0, 0.9), "seed": st.integers(0, 9),
    },
)  # fmt: skip


@settings(deadline=None)
@given(st.integers(0, 100_000_000), GIVEN)
def test_given_settings_are_kept_and_the_others_are_valid(n_bytes, given_settings):
    model, train = choose(n_bytes, given_settings)
    chosen = {**model.to_mapping(), **train.to_mapping()}
    assert {name: chosen[name] for name in given_settings} == given_settings
    assert train.budget is not None or train.max_steps is not None


@pytest.mark.parametrize(
    "n_bytes", [0, 1, 20_479, 199_999, 200_000, 3_999_999, 4_000_000, 100_000_000]
)
def test_every_size_of_text_gets_configs_of_known_settings(n_bytes):
    known = {item.name for config in (ModelConfig, TrainConfig) for item in config.settings()}
    assert set(recipe(n_bytes, {})) <= known
    choose(n_bytes, {})


def test_the_recipe_sets_a_budget_only_without_another_limit():
    assert recipe(0, {})["budget"] == 60
    assert "budget" not in recipe(0, {"max_steps": 5}) and "budget" not in recipe(0, {"budget": 5})


def test_the_gpt2_tokenizer_has_no_bpe_dropout():
    assert choose(0, {"tokenizer": "gpt2"})[1].bpe_dropout == 0


def test_settings_that_do_not_fit_together_are_refused():
    with pytest.raises(SettingError):
        choose(0, {"n_embd": 100, "n_head": 3})


def test_r_drop_needs_dropout():
    with pytest.raises(SettingError, match="dropout 0"):
        choose(10_000, {"dropout": 0.0, "r_drop": 1.0})
    assert choose(10_000, {"dropout": 0.0})[1].r_drop == 0


def test_more_time_gives_a_larger_model_and_more_time_per_byte_more_dropout():
    sizes = [choose(1_000_000, {"budget": seconds})[0] for seconds in (20, 60, 300, 900)]
    assert [(size.n_layer, size.n_embd) for size in sizes] == [
        (4, 128),
        (4, 192),
        (6, 192),
        (6, 256),
    ]
    assert 0 == sizes[0].dropout < sizes[1].dropout < sizes[2].dropout < sizes[3].dropout
    assert choose(10_000_000, {"budget": 300})[0].dropout == 0, "gone through once or twice"


def test_conversations_are_learned_by_heart_from_random_weights_and_from_a_model():
    lengths = ConversationLengths(200, 1000)
    for base in (None, ModelConfig(n_embd=96, n_head=3, block_size=512)):
        model, train = choose(84_000, {}, base, lengths=lengths)
        assert model.dropout == train.r_drop == train.token_noise == train.bpe_dropout == 0
        assert train.max_epochs and 8 <= train.max_epochs <= 20 and train.label_smoothing == 0.1
        given = {"dropout": 0.2, "label_smoothing": 0.0, "max_steps": 7}
        model, train = choose(84_000, given, base, lengths=lengths)
        assert (model.dropout, train.label_smoothing, train.max_epochs) == (0.2, 0.0, None)
        assert choose(84_000, {"overfit": True}, base, lengths=lengths)[1].label_smoothing == 0


def test_few_conversations_are_read_more_often_so_that_there_are_as_many_steps():
    lengths = ConversationLengths(200, 1000)
    few, many = (choose(size, {}, lengths=lengths)[1].max_epochs for size in (8_400, 84_000))
    assert few == pytest.approx(10 * many)


def test_a_step_has_as_many_tokens_for_any_block_size():
    for block in (16, 64, 512):
        model, train = choose(1_000_000, {"block_size": block})
        assert train.batch_size * model.block_size == 2048


def test_fine_tuning_keeps_the_shape_and_initializes_no_induction_heads():
    base = ModelConfig(n_embd=96, n_head=3, block_size=64)
    model, train = choose(1_000_000, {}, base)
    assert (model.n_embd, model.n_head, model.block_size) == (96, 3, 64) and train.batch_size == 32
    assert not train.induction and train.composition == 0 and choose(1_000_000, {})[1].induction
