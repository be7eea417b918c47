"""Rotary position embeddings (RoPE; Su et al. 2021, "RoFormer").

Each pair of dimensions (i, i + D / 2) of a query or key is rotated by position * frequency, so that
the product of a query and a key depends on the distance between their positions only.

Shapes: B batch, T tokens, P positions, H heads, D head size.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from simplellm.config.model import ModelConfig

ROPE_BASE = 10_000.0  # RoFormer, section 3.4.3


def rope_frequencies(head_size: int, base: float = ROPE_BASE) -> np.ndarray:
    """Radians per position of each pair of dimensions: (D / 2) float32, highest first."""
    exponents = np.arange(0, head_size, 2, dtype=np.float32) / np.float32(head_size)
    return (base**-exponents).astype(np.float32)


def scaled_frequencies(frequencies: np.ndarray, config: ModelConfig) -> np.ndarray:
    """The frequencies as Llama 3 scales them for a context longer than it was first trained with.

    A frequency with at least `rope_high` turns in the original context stays. One with at most
    `rope_low` turns is divided by `rope_factor`. Between them the divisor is interpolated
    (Grattafiori et al. 2024, "The Llama 3 herd of models"; `llama3` in `transformers`).
    """
    turns = config.rope_original_context * frequencies.astype(np.float64) / (2 * math.pi)
    kept = (turns - config.rope_low) / (config.rope_high - config.rope_low)
    kept = kept.clip(0.0, 1.0)
    return (frequencies * (kept + (1 - kept) / config.rope_factor)).astype(np.float32)


def rope_table(n_positions: int, frequencies: np.ndarray) -> Tensor:
    """cos and sin of every position and frequency, (2, P, 1, D); RoFormer, eq. 15.

    sin is negative in the first half, as `rotate` needs it.

    Computed with numpy, so that a model built on torch's meta device has real values here.
    """
    positions = np.arange(n_positions, dtype=np.float32)
    angles = np.outer(positions, frequencies)  # (P, D / 2)
    cos = np.cos(angles)
    sin = np.sin(angles)
    table = np.stack([np.concatenate([cos, cos], axis=-1), np.concatenate([-sin, sin], axis=-1)])
    return torch.from_numpy(table[:, :, None])


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, T, H, D) rotated by rows of `rope_table`: cos and sin (T, 1, D)."""
    first, second = x.chunk(2, dim=-1)  # (B, T, H, D / 2)
    return x * cos + torch.cat([second, first], dim=-1) * sin
