"""Frozen weights in 16 bits for matrix products, from which the float32 values can be restored.

A float32 number is its upper 16 bits, rounded, which are a bfloat16 number, plus a difference that
fits 16 bits. Open models are published in bfloat16: there all differences are zero and take no
memory. Otherwise both halves together take as much memory as the float32 number.
"""

from __future__ import annotations

import torch
from torch import Tensor

HALF = 1 << 15  # half of a unit of the upper 16 bits


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
