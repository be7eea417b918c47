"""Frozen weights in 16 bits for matrix products, from which the float32 values can be restored.

A float32 number is its upper 16 bits, rounded, which are a bfloat16 number, plus a difference that
fits 16 bits. Open models are published in bfloat16: there all differences are zero and take no
memory. Otherwise both halves together take as much memory as the float32 number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

HALF = 1 << 15  # half of a unit of the upper 16 bits


class Frozen(NamedTuple):
    """A weight for matrix products in the format of `high`; `lower`: see `split`."""

    high: Tensor
    lower: Tensor | None = None


class FrozenWeights:
    """Weights of a model, by name, that all its adapted models share.

    dtype: of the matrices of the blocks in products, float32 or bfloat16. The entries of `weights`
    that are converted are removed from it, one after the other, so that memory is reused.
    new_ids: tokens whose rows in the tables are trained, see adapted_table.py.
    """

    def __init__(
        self, weights: dict[str, Tensor], dtype: torch.dtype, new_ids: tuple[int, ...] = ()
    ) -> None:
        self.new_ids = new_ids
        matrices = [
            name for name in weights if name.startswith("blocks.") and weights[name].dim() == 2
        ]
        self.matrices: Mapping[str, Frozen] = {
            name: freeze_matrix(weights.pop(name), dtype) for name in matrices
        }
        self.others = weights  # tables, norms and biases


def freeze_matrix(weight: Tensor, dtype: torch.dtype) -> Frozen:
    """A float32 matrix for products in `dtype`; one that stays float32 shares its memory."""
    return Frozen(*split(weight)) if dtype == torch.bfloat16 else Frozen(weight)


def split(weight: Tensor) -> tuple[Tensor, Tensor | None]:
    """float32 -> the nearest bfloat16 numbers, and the differences as int16; None if all are 0."""
    bits = weight.contiguous().view(torch.int32)
    upper = (bits + HALF) >> 16
    lower = (bits - (upper << 16)).to(torch.int16)
    high = upper.to(torch.int16).view(torch.bfloat16)
    return high, lower if bool(lower.any()) else None


def joined(high: Tensor, lower: Tensor | None) -> Tensor:
    """The inverse of `split`: a new float32 tensor; `high` may be float32 already."""
    if lower is None:
        return high.to(torch.float32, copy=True)
    bits = high.view(torch.int16).to(torch.int32) << 16
    return (bits + lower).view(torch.float32)
