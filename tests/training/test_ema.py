"""The moving average of the weights: what it holds, and how it changes places with the model's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from simplellm.config.model import ModelConfig
from simplellm.model.transformer import SimpleLLM
from simplellm.training.ema import EMA


def _model() -> SimpleLLM:
    config = ModelConfig(n_layer=2, n_head=4, n_kv_head=2, n_embd=32, block_size=16, vocab_size=300)
    return SimpleLLM(config).init_weights(torch.Generator().manual_seed(1))


@torch.no_grad()
def _change(model: SimpleLLM, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.add_(0.01 * torch.randn(weight.shape, generator=generator))


def _held(model: SimpleLLM) -> list[Tensor]:
    return [weight.detach().clone() for weight in model.parameters()]


def _equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture
def averaged() -> tuple[SimpleLLM, EMA]:
    model = _model()
    ema = EMA(model, 0.9)
    for step in range(5):
        _change(model, step)
        ema.update(step)
    return model, ema


def _succeed() -> None:
    pass


def _fail() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("end", [_succeed, _fail])
def test_the_averaged_weights_are_applied_within_the_block_only(
    averaged: tuple[SimpleLLM, EMA], end: Callable[[], None]
) -> None:
    model, ema = averaged
    live, average = _held(model), [tensor.clone() for tensor in ema.stored()]
    assert not _equal(live, average)
    try:
        with ema.applied():
            assert _equal(_held(model), average) and _equal(ema.stored(), live)
            end()
    except KeyboardInterrupt:
        pass
    assert _equal(_held(model), live) and _equal(ema.stored(), average)


def test_the_average_converges_to_constant_weights() -> None:
    model = _model()
    ema = EMA(model, 0.5)
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(1.0)
        for step in range(200):
            ema.update(step)
    assert all(torch.allclose(average, torch.ones_like(average)) for average in ema.stored())


def test_decay_0_keeps_no_copy() -> None:
    model = _model()
    ema, live = EMA(model, 0.0), _held(model)
    ema.update(0)
    with ema.applied():
        assert _equal(_held(model), live)
    assert ema.stored() == []


def test_a_saved_average_can_be_loaded(averaged: tuple[SimpleLLM, EMA]) -> None:
    model, ema = averaged
    other = EMA(_model(), 0.9)
    other.load(ema.stored())
    assert _equal(other.stored(), ema.stored())
