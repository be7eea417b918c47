"""The optimizers of a model: groups, rates, and a state that continues exactly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from simplellm.config.model import ModelConfig
from simplellm.config.training import TrainConfig
from simplellm.device import grad_scaler
from simplellm.model.transformer import SimpleLLM
from simplellm.training.muon import block_matrices
from simplellm.training.optimizer import Optimizer

SCALER = grad_scaler(torch.device("cpu"), "float32")


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _model() -> SimpleLLM:
    config = ModelConfig(n_layer=2, n_head=4, n_kv_head=2, n_embd=32, block_size=16, vocab_size=300)
    return SimpleLLM(config).init_weights(torch.Generator().manual_seed(1))


def _learn(model: SimpleLLM, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        block = torch.randint(300, (4, 17), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model.loss(block[:, :-1], block[:, 1:]).backward()
        optimizer.set_rate((8 - step) / 8)
        optimizer.unscale(SCALER)
        optimizer.step(SCALER)


def test_muon_moves_the_matrices_of_the_blocks_and_adamw_the_rest() -> None:
    model = _model()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = Optimizer(
        model, TrainConfig(muon_learning_rate=1e-9, learning_rate=1e-2, weight_decay=0.0)
    )
    _learn(model, optimizer, range(1))
    moved = {
        name
        for name, weight in model.named_parameters()
        if not torch.allclose(weight, before[name], atol=1e-6)
    }
    assert moved.isdisjoint(block_matrices(model)) and "token_embedding.weight" in moved


def test_norms_do_not_decay() -> None:
    model = _model()
    optimizer = Optimizer(model, TrainConfig(weight_decay=1.0, learning_rate=1e-2))
    decaying = {
        id(weight)
        for group in optimizer.groups
        if group["weight_decay"]
        for weight in group["params"]
    }
    assert {name for name, weight in model.named_parameters() if id(weight) not in decaying} == {
        name for name, weight in model.named_parameters() if weight.dim() < 2
    }


def test_every_parameter_belongs_to_one_group() -> None:
    model = _model()
    held = [id(weight) for weight in Optimizer(model, TrainConfig()).weights]
    assert sorted(held) == sorted(id(weight) for weight in model.parameters())


def test_a_rate_factor_scales_the_peak_of_every_group() -> None:
    optimizer = Optimizer(_model(), TrainConfig(learning_rate=0.1, muon_learning_rate=0.4))
    for factor in (0.5, 0.25):
        optimizer.set_rate(factor)
        assert sorted({group["lr"] for group in optimizer.groups}) == pytest.approx(
            [0.1 * factor, 0.4 * factor]
        )


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("stop", [1, 4, 7])
def test_training_continues_exactly_from_a_loaded_state(optimizer: str, stop: int) -> None:
    config = TrainConfig(optimizer=optimizer, learning_rate=1e-2)
    whole, first, second = _model(), _model(), _model()
    _learn(whole, Optimizer(whole, config), range(8))
    before, after = Optimizer(first, config), Optimizer(second, config)
    _learn(first, before, range(stop))
    second.load_state_dict(first.state_dict())
    after.load_state({name: tensor.clone() for name, tensor in before.state().items()})
    _learn(second, after, range(stop, 8))
    assert all(
        torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True)
    )


def test_a_loaded_state_is_not_shared_with_its_source() -> None:
    config, model = TrainConfig(), _model()
    source, target = Optimizer(model, config), Optimizer(_model(), config)
    _learn(model, source, range(2))
    saved = {name: tensor.clone() for name, tensor in source.state().items()}
    target.load_state({name: tensor.clone() for name, tensor in saved.items()})
    _learn(model, source, range(2, 4))
    assert all(torch.equal(tensor, saved[name]) for name, tensor in target.state().items())
