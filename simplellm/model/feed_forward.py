"""Feed-forward layers: each token alone, through a wider layer and back.

Shapes: C n_embd, I inner size.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from simplellm.config.model import ModelConfig
from simplellm.model.kernels import swiglu
from simplellm.model.layers import Linear


def gate_up_rows(config: ModelConfig) -> tuple[int, int]:
    """Rows of the gate and up matrices, which are fused in this order."""
    return (config.inner_size, config.inner_size)


class MLP(nn.Module):
    """down(gelu(up x)) (GPT-2; GELU by its tanh approximation, Hendrycks and Gimpel 2016)."""

    def __init__(self, config: ModelConfig, *, bias: bool) -> None:
        super().__init__()
        self.up = Linear(config.n_embd, [config.inner_size], bias=bias)
        self.down = Linear(config.inner_size, [config.n_embd], bias=bias, is_residual=True)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.down(F.gelu(self.up(x), approximate="tanh"))  # (..., I) -> (..., C)


class GatedMLP(nn.Module):
    """SwiGLU: down(silu(gate x) * up x) (Shazeer 2020). The weight `up` holds gate and up."""

    def __init__(self, config: ModelConfig, *, bias: bool) -> None:
        super().__init__()
        self.up = Linear(config.n_embd, gate_up_rows(config), bias=bias)
        self.down = Linear(config.inner_size, [config.n_embd], bias=bias, is_residual=True)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.down(swiglu(self.up(x)))  # (..., 2 I) -> (..., I) -> (..., C)
