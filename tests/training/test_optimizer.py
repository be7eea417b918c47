"""Optimizers: Muon, averaged weights, and a state that goes on exactly."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from simplellm.config.model import ModelConfig
from simplellm.config.training import TrainConfig
from simplellm.device import grad_scaler
from simplellm.model.transformer import SimpleLLM
from simplellm.training.optimizer import (
    AveragedWeights,
    Matrix,
    Muon,
    Optimizer,
    block_matrices,
    newton_schulz,
    orthogonalize_all,
)

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


@pytest.mark.parametrize("shape", [(32, 96), (96, 32), (16, 256), (64, 160)])
def test_the_singular_values_of_muons_update_are_near_one(shape: tuple[int, int]) -> None:
    weight = torch.nn.Parameter(torch.zeros(shape))
    weight.grad = _random(*shape)
    Muon([weight], [Matrix([shape[0]], 1.0)], lr=1.0, weight_decay=0.0).step()
    singular = torch.linalg.svdvals(weight.detach()) / math.sqrt(max(1.0, shape[0] / shape[1]))
    assert float(singular.min()) > 0.85 and float(singular.max()) < 1.15
    assert float((weight.detach() * weight.grad).sum()) < 0, "and it goes down the gradient"


def test_the_size_of_a_gradient_does_not_matter_to_muon() -> None:
    first, second = newton_schulz(_random(2, 16, 48)), newton_schulz(_random(2, 16, 48) * 1e-4)
    torch.testing.assert_close(first, second, atol=0.03, rtol=0.03)


def test_a_gradient_of_nothing_moves_nothing() -> None:
    assert torch.equal(newton_schulz(torch.zeros(1, 4, 8)), torch.zeros(1, 4, 8))


def test_fused_matrices_are_orthogonalised_apart() -> None:
    rows, gradient = (
        [32, 16, 16],
        _random(64, 32) * torch.cat([torch.ones(32), torch.full((32,), 100.0)])[:, None],
    )
    fused = torch.nn.Parameter(torch.zeros(64, 32))
    fused.grad = gradient.clone()
    Muon([fused], [Matrix(rows, 1.0)], lr=0.1, weight_decay=0.0).step()
    apart = [torch.nn.Parameter(torch.zeros(n, 32)) for n in rows]
    for weight, part in zip(apart, gradient.split(rows), strict=True):
        weight.grad = part.clone()
        Muon([weight], [Matrix([len(part)], 1.0)], lr=0.1, weight_decay=0.0).step()
    torch.testing.assert_close(fused.detach(), torch.cat(apart).detach(), atol=1e-3, rtol=1e-2)
    whole = gradient.clone()
    orthogonalize_all([whole])
    assert not torch.allclose(fused.detach(), -0.1 * whole, atol=1e-2), (
        "together they would come out otherwise"
    )


def test_the_order_of_matrices_does_not_matter() -> None:
    shapes = [(8, 24), (24, 8), (8, 24), (16, 16)]
    matrices = [_random(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    forwards, backwards = (
        [matrix.clone() for matrix in matrices],
        [matrix.clone() for matrix in matrices],
    )
    orthogonalize_all(forwards)
    orthogonalize_all(backwards[::-1])
    for one, other in zip(forwards, backwards, strict=True):
        torch.testing.assert_close(one, other, atol=1e-2, rtol=1e-2)


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


def test_matrices_are_all_matrices_of_the_blocks_with_their_rows(tiny_model: SimpleLLM) -> None:
    shapes = {name: weight.shape for name, weight in tiny_model.named_parameters()}
    matrices = block_matrices(tiny_model)
    assert set(matrices) == {
        name for name, shape in shapes.items() if name.startswith("blocks.") and len(shape) == 2
    }
    assert all(sum(matrix.rows) == shapes[name][0] for name, matrix in matrices.items())


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
def test_a_loaded_state_goes_on_exactly(optimizer: str, stop: int) -> None:
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


def _held(model: SimpleLLM) -> list[Tensor]:
    return [weight.detach().clone() for weight in model.parameters()]


def _equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture
def averaged() -> tuple[SimpleLLM, AveragedWeights]:
    model = _model()
    weights, optimizer = (
        AveragedWeights(model, 0.9),
        Optimizer(model, TrainConfig(learning_rate=1e-2)),
    )
    for step in range(5):
        _learn(model, optimizer, range(step, step + 1))
        weights.update(step)
    return model, weights


def _leave_well() -> None:
    pass


def _leave_badly() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("leave", [_leave_well, _leave_badly])
def test_averaged_weights_are_exchanged_and_restored(
    averaged: tuple[SimpleLLM, AveragedWeights], leave: Callable[[], None]
) -> None:
    model, weights = averaged
    live, average = _held(model), [tensor.clone() for tensor in weights.kept_aside()]
    assert not _equal(live, average)
    try:
        with weights.in_place():
            assert _equal(_held(model), average) and _equal(weights.kept_aside(), live)
            leave()
    except KeyboardInterrupt:
        pass
    assert _equal(_held(model), live) and _equal(weights.kept_aside(), average)


def test_the_average_lies_between_start_and_end() -> None:
    model = _model()
    weights = AveragedWeights(model, 0.5)
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(1.0)
        for step in range(200):
            weights.update(step)
    assert all(
        torch.allclose(average, torch.ones_like(average)) for average in weights.kept_aside()
    )


def test_without_memory_there_is_no_second_copy() -> None:
    model = _model()
    weights, live = AveragedWeights(model, 0.0), _held(model)
    weights.update(0)
    with weights.in_place():
        assert _equal(_held(model), live)
    assert weights.kept_aside() == []


def test_an_average_can_be_taken_up_again(averaged: tuple[SimpleLLM, AveragedWeights]) -> None:
    model, weights = averaged
    other = AveragedWeights(_model(), 0.9)
    other.start_from(weights.kept_aside())
    assert _equal(other.kept_aside(), weights.kept_aside())
