"""Muon: orthogonalised updates of the block matrices."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from simplellm.model.transformer import SimpleLLM
from simplellm.training.muon import (
    Matrix,
    Muon,
    block_matrices,
    newton_schulz,
    orthogonalize_all,
)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(32, 96), (96, 32), (16, 256), (64, 160)])
def test_the_singular_values_of_muons_update_are_near_one(shape: tuple[int, int]) -> None:
    weight = torch.nn.Parameter(torch.zeros(shape))
    weight.grad = _random(*shape)
    Muon([weight], [Matrix([shape[0]], 1.0)], lr=1.0, weight_decay=0.0).step()
    singular = torch.linalg.svdvals(weight.detach()) / math.sqrt(max(1.0, shape[0] / shape[1]))
    assert float(singular.min()) > 0.85 and float(singular.max()) < 1.15
    assert float((weight.detach() * weight.grad).sum()) < 0, "it descends"


def test_muons_update_does_not_depend_on_the_size_of_the_gradient() -> None:
    first, second = newton_schulz(_random(2, 16, 48)), newton_schulz(_random(2, 16, 48) * 1e-4)
    torch.testing.assert_close(first, second, atol=0.03, rtol=0.03)


def test_a_zero_gradient_gives_a_zero_update() -> None:
    assert torch.equal(newton_schulz(torch.zeros(1, 4, 8)), torch.zeros(1, 4, 8))


def test_fused_matrices_are_orthogonalised_separately() -> None:
    rows = [32, 16, 16]
    row_scales = torch.cat([torch.ones(32), torch.full((32,), 100.0)])
    gradient = _random(64, 32) * row_scales[:, None]
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
        "one fused matrix gives another result"
    )


def test_the_order_of_matrices_does_not_matter() -> None:
    shapes = [(8, 24), (24, 8), (8, 24), (16, 16)]
    matrices = [_random(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    forwards = [matrix.clone() for matrix in matrices]
    backwards = [matrix.clone() for matrix in matrices]
    orthogonalize_all(forwards)
    orthogonalize_all(backwards[::-1])
    for one, other in zip(forwards, backwards, strict=True):
        torch.testing.assert_close(one, other, atol=1e-2, rtol=1e-2)


def test_matrices_are_all_matrices_of_the_blocks_with_their_rows(tiny_model: SimpleLLM) -> None:
    shapes = {name: weight.shape for name, weight in tiny_model.named_parameters()}
    matrices = block_matrices(tiny_model)
    assert set(matrices) == {
        name for name, shape in shapes.items() if name.startswith("blocks.") and len(shape) == 2
    }
    assert all(sum(matrix.rows) == shapes[name][0] for name, matrix in matrices.items())
