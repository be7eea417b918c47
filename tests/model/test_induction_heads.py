"""Planted heads copy from the context before training, and training improves them at once."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from simplellm.config.model import ModelConfig
from simplellm.config.training import TrainConfig
from simplellm.device import grad_scaler
from simplellm.model.induction_heads import plant_induction_heads
from simplellm.model.transformer import SimpleLLM
from simplellm.training.optimizer import Optimizer

VOCABULARY, BLOCK, PERIOD = 300, 96, 32
SHAPE = {
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 128,
    "block_size": BLOCK,
    "vocab_size": VOCABULARY,
    "tie_embeddings": False,
}


def model(planted: bool = True, seed: int = 1, **changes: object) -> SimpleLLM:
    generator = torch.Generator().manual_seed(seed)
    made = SimpleLLM(ModelConfig(**{**SHAPE, **changes})).init_weights(generator)
    assert not planted or plant_induction_heads(made, generator)
    return made


def copies(n: int = 16, seed: int = 0) -> Tensor:
    """Random tokens, again and again: (n, BLOCK + 1)."""
    once = torch.randint(VOCABULARY, (n, PERIOD), generator=torch.Generator().manual_seed(seed))
    return once.repeat(1, BLOCK // PERIOD + 1)[:, : BLOCK + 1]


@torch.no_grad()
def losses(of: SimpleLLM, blocks: Tensor) -> Tensor:
    return -of(blocks[:, :-1]).log_softmax(-1).gather(2, blocks[:, 1:, None])[..., 0]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_embeddings": True},
        {"n_embd": 256, "n_head": 4},
        {"n_embd": 256, "n_head": 4, "n_kv_head": 2},
        {"n_layer": 5},
    ],
)
def test_a_planted_model_copies_before_training(changes: dict[str, object]) -> None:
    again = losses(model(**changes), copies())[:, PERIOD:].mean()
    assert again < losses(model(planted=False, **changes), copies())[:, PERIOD:].mean() - 0.8
    assert again < math.log(VOCABULARY) - 0.5


def test_new_tokens_cost_hardly_more() -> None:
    new = losses(model(), copies())[:, : PERIOD - 1].mean()
    assert new < math.log(VOCABULARY) + 0.5


def learned(of: SimpleLLM, steps: int = 40) -> float:
    optimizer, scaler = (
        Optimizer(of, TrainConfig(muon_learning_rate=0.02, weight_decay=0.0)),
        grad_scaler(torch.device("cpu"), ""),
    )
    for step in range(steps):
        blocks = copies(seed=step)
        of.loss(blocks[:, :-1], blocks[:, 1:]).backward()
        optimizer.unscale(scaler)
        optimizer.step(scaler)
        optimizer.zero_grad()
    return float(losses(of, copies(seed=steps))[:, PERIOD:].mean())


@pytest.mark.slow
def test_training_improves_the_planted_heads() -> None:
    assert learned(model()) < 1.5


@pytest.mark.slow
def test_training_alone_does_not_learn_to_copy_in_as_many_steps() -> None:
    assert learned(model(planted=False)) > 4.5


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "gpt2"},
        {"n_layer": 1},
        {"n_head": 1, "n_embd": 8},
        {"n_head": 32, "n_embd": 128},
    ],
)
def test_a_model_without_room_is_not_changed(changes: dict[str, object]) -> None:
    generator = torch.Generator().manual_seed(1)
    plain, tried = (
        SimpleLLM(ModelConfig(**{**SHAPE, **changes})).init_weights(generator.manual_seed(1))
        for _ in range(2)
    )
    assert not plant_induction_heads(tried, generator)
    for one, other in zip(plain.parameters(), tried.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_same_seed_plants_the_same_weights() -> None:
    one, same, other = (model(seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["token_embedding.weight"], other["token_embedding.weight"])
