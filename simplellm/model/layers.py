"""Layers that every architecture shares: linear layers, embeddings and RMSNorm.

Their initial weights are drawn by `SimpleLLM.init_weights` or loaded from a checkpoint, so that
torch's own initialization is skipped.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simplellm.model.kernels import rms_norm


class Linear(nn.Linear):
    """W x + b, where W may be several matrices fused along their rows.

    rows: output rows of each fused matrix; an optimizer for matrices treats them one by one.
    is_residual: whether the result is added to the residual stream.
    """

    def __init__(
        self, in_features: int, rows: Sequence[int], *, bias: bool, is_residual: bool = False
    ) -> None:
        super().__init__(in_features, sum(rows), bias=bias)
        self.rows = tuple(rows)
        self.is_residual = is_residual

    def reset_parameters(self) -> None: ...


class Embedding(nn.Embedding):
    """A table with one row per token or position."""

    def reset_parameters(self) -> None: ...

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., C) -> (..., V), where the table is also the output table."""
        return F.linear(hidden, self.weight)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension (Zhang and Sennrich 2019).

    dtype: number format of the result; None is the one that matrix products use.
    """

    def __init__(self, width: int, eps: float, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps, self.dtype)
