"""The buffers of a forward pass of the decoder, made once for each number of tokens.

Shapes: R tokens, C n_embd, I inner size, H heads, G key/value heads, D head size.
"""

from __future__ import annotations

import numpy as np

from simplellm.config.model import ModelConfig
from simplellm.inference.vectors import Array, Vectors


class Workspace:
    """x: the residual stream (R, C). normed, added: (R, C), before and after a layer.
    qkv: (R, (H + 2 G) D). attended: (R, H D). up, activated: of the feed-forward layer.
    """

    def __init__(self, config: ModelConfig, up_size: int, n_rows: int, memory: Array) -> None:
        """`memory`: of `n_floats` for at least as many rows; other workspaces may use it too."""
        sizes = _sizes(config, up_size)
        ends = np.cumsum(sizes) * n_rows
        parts = [
            Vectors(memory[end - n_rows * size : end].reshape(n_rows, size))
            for end, size in zip(ends, sizes, strict=True)
        ]
        self.x, self.normed, self.added, self.qkv, self.attended, self.up, self.activated = parts


def n_floats(config: ModelConfig, up_size: int, n_rows: int) -> int:
    """Numbers in the buffers of a workspace."""
    return n_rows * sum(_sizes(config, up_size))


def _sizes(config: ModelConfig, up_size: int) -> list[int]:
    """Of the vectors of one token: x, normed, added, qkv, attended, up, activated."""
    heads = config.n_head * config.head_size
    qkv = heads + 2 * config.kv_heads * config.head_size
    return [config.n_embd] * 3 + [qkv, heads, up_size, config.inner_size]
