"""Muon: momentum whose update is orthogonalised, for the weight matrices of the blocks.

Jordan et al. 2024, "Muon: an optimizer for hidden layers".
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from simplellm.model.block import residual_stream_std
from simplellm.model.layers import Linear
from simplellm.model.transformer import SimpleLLM

MOMENTUM = 0.95  # Jordan et al. 2024
# Each step's odd polynomial is the one nearest to 1 on the range that the step before maps
# [0.02, 1] to (Amsel et al. 2025, "The Polar Express"). After the three steps, singular values
# above 0.02 times the matrix's norm are within 1 +- 0.1.
NEWTON_SCHULZ_COEFFICIENTS = (
    (7.711, -22.1138, 16.2487),
    (3.2153, -2.4112, 0.5013),
    (2.2183, -1.594, 0.4107),
)
ROUNDING_MARGIN = 1.01  # matrices start this much smaller: rounding must not exceed the bound of 1


class Matrix(NamedTuple):
    """A weight matrix: the rows of each matrix fused into it, and the scale of its updates."""

    rows: Sequence[int]
    scale: float


def block_matrices(model: SimpleLLM) -> dict[str, Matrix]:
    """The weight matrices of the blocks by name.

    Updates of those that write to the residual stream are scaled to the embeddings in it.
    """
    residual_scale = residual_stream_std(model.config)
    return {
        f"blocks.{name}.weight": Matrix(module.rows, residual_scale if module.is_residual else 1.0)
        for name, module in model.blocks.named_modules()
        if isinstance(module, Linear)
    }


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose update is orthogonalised: all singular values become about equal.

    Matrices fused into one parameter are orthogonalised separately. Matrices of equal shape are
    processed as one batch, which makes the optimizer cheap.
    """

    def __init__(
        self, params: list[Tensor], matrices: list[Matrix], lr: float, weight_decay: float
    ) -> None:
        super().__init__([{"params": params}], {"lr": lr, "weight_decay": weight_decay})
        self.matrices = matrices

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        (group,) = self.param_groups
        weights = [weight for weight in group["params"] if weight.grad is not None]
        updates = [self._momentum(weight) for weight in weights]
        orthogonalize_all(
            [
                part
                for update, matrix in zip(updates, self.matrices, strict=True)
                for part in update.split(list(matrix.rows))
            ]
        )
        torch._foreach_mul_(updates, [matrix.scale for matrix in self.matrices])
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(weights, updates, alpha=-group["lr"])

    def _momentum(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        gradient = weight.grad
        assert gradient is not None
        state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(state["momentum"], MOMENTUM)


def orthogonalize_all(matrices: list[Tensor]) -> None:
    """Replace each matrix (rows, columns) in place by the nearest orthogonal one.

    The result is scaled by sqrt(max(1, rows / columns)).
    """
    by_shape: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
    for matrix in matrices:
        wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.t()
        by_shape[wide.shape[0], wide.shape[1]].append(matrix)
    for (n_rows, _), group in by_shape.items():
        stacked = torch.stack(
            [matrix if matrix.shape[0] == n_rows else matrix.t() for matrix in group]
        )
        for matrix, result in zip(group, newton_schulz(stacked), strict=True):
            scale = math.sqrt(max(1.0, matrix.shape[0] / matrix.shape[1]))
            matrix.copy_(result if matrix.shape[0] == n_rows else result.t()).mul_(scale)


def newton_schulz(matrices: Tensor) -> Tensor:
    """Push the singular values of each matrix (N, rows <= columns) towards 1, in bfloat16.

    Very small singular values, which are mostly noise, stay below 1.
    """
    norms = matrices.norm(dim=(-2, -1), keepdim=True)  # (N, 1, 1)
    x = (matrices / (norms * ROUNDING_MARGIN + 1e-7)).bfloat16()
    for a, b, c in NEWTON_SCHULZ_COEFFICIENTS:
        gram = x @ x.mT  # (N, rows, rows)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.to(matrices.dtype)
