"""The KV cache: keys and values of earlier tokens, kept so that each token is computed once.

Shapes: L blocks, B batch, T new tokens, S cached tokens, G key/value heads, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from simplellm.config.model import ModelConfig

FIRST_CAPACITY = 512  # positions reserved at first; a longer context is reserved when it is used


class KVCache:
    """`keys` and `values`, (L, B, G, capacity, D), of which `length` positions are in use.

    The caller owns it, and the model appends to it. The capacity grows as needed, by doubling up to
    the expected length; then `keys` and `values` are new tensors.
    """

    def __init__(
        self, config: ModelConfig, batch_size: int, like: Tensor, capacity: int | None = None
    ) -> None:
        """`like`: device and number format. `capacity`: expected length, by default block_size."""
        self._limit = min(capacity or config.block_size, config.block_size)
        capacity = min(self._limit, FIRST_CAPACITY)
        shape = (config.n_layer, batch_size, config.kv_heads, capacity, config.head_size)
        self.keys = torch.zeros(shape, dtype=like.dtype, device=like.device)
        self.values = torch.zeros_like(self.keys)
        self.length = 0

    @property
    def capacity(self) -> int:
        return self.keys.shape[3]

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k and v (B, G, T, D); returns all keys and values of the layer (B, G, S + T, D).

        `length` stays: the model advances it after the last layer.
        """
        end = self.length + k.shape[2]
        self.reserve(end)
        self.keys[layer, :, :, self.length : end] = k
        self.values[layer, :, :, self.length : end] = v
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def reserve(self, n_positions: int) -> None:
        """Make room for so many positions, and for some more."""
        if n_positions <= self.capacity:
            return
        capacity = max(n_positions, min(2 * self.capacity, self._limit))
        self.keys = self._grown(self.keys, capacity)
        self.values = self._grown(self.values, capacity)

    def _grown(self, old: Tensor, capacity: int) -> Tensor:
        L, B, G, _, D = old.shape
        new = old.new_zeros(L, B, G, capacity, D)
        new[:, :, :, : self.length] = old[:, :, :, : self.length]
        return new


def causal_mask(T: int, past: int, device: torch.device) -> Tensor:
    """(T, past + T) bool: each of T new tokens attends to the past, itself and those between."""
    return torch.ones(T, past + T, dtype=torch.bool, device=device).tril(diagonal=past)
