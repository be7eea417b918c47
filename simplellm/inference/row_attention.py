"""Attention of tokens of several texts, each to its own KV cache, in numpy or in C.

Shapes: R tokens, C n_embd, L layers, H heads, G key/value heads, D head size, S positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from simplellm.inference.native_products import MAX_HEAD_SIZE, native_products
from simplellm.inference.places import Places
from simplellm.inference.row_operations import MAX_ROWS, array, norm, product
from simplellm.inference.vectors import Array, Vectors
from simplellm.inference.workspace import Workspace
from simplellm.model.attention import MultiHeadAttention
from simplellm.model.block import TransformerBlock

# heads (R, (H + 2 G) D), the places of the tokens, result (R, H D)
Attend = Callable[[Vectors, Places, Vectors], None]


def attention(block: TransformerBlock) -> Callable[[Workspace, Places], None]:
    """x += attention(norm(x)); keys and values are stored in the caches.

    `Workspace.rope` is None where positions are learned embeddings.
    """
    layer = block.attention
    normalize = norm(block.attention_norm)
    project_in = product(layer.qkv)
    project_out = product(layer.proj)
    scale = _scaling(layer)
    attend = _attend(layer)

    def add_attention(space: Workspace, places: Places) -> None:
        normalize(space.x, space.normed)
        project_in(space.normed, space.qkv)
        scale(space)
        if space.rope is not None:
            _rotate(space, space.rope)
        attend(space.qkv, places, space.attended)
        project_out(space.attended, space.added)
        np.add(space.x.array, space.added.array, space.x.array)

    return add_attention


def _scaling(attention: MultiHeadAttention) -> Callable[[Workspace], None]:
    """QK-norm, if any, and 1 / sqrt(D), which is applied to the queries, in place."""
    H, G, D = attention.sizes
    if attention.q_norm is None or attention.k_norm is None:
        factor = np.array(D**-0.5, np.float32)

        def scale(space: Workspace) -> None:
            np.multiply(space.queries, factor, space.queries)

        return scale
    q_gain = np.tile(array(attention.q_norm.weight), (H, 1))
    k_gain = np.tile(array(attention.k_norm.weight) * np.float32(math.sqrt(D)), (G, 1))
    gains = np.concatenate([q_gain, k_gain])  # with sqrt(D), because a sum of squares is no mean
    epsilon = np.array(D * attention.q_norm.eps, np.float32)
    lengths = np.empty((MAX_ROWS, H + G), np.float32)

    def normalize(space: Workspace) -> None:
        heads, length = space.queries_and_keys, lengths[: len(space.x.rows)]
        np.vecdot(heads, heads, length)
        np.add(length, epsilon, length)
        np.sqrt(length, length)
        np.divide(heads, length[:, :, None], heads)
        np.multiply(heads, gains, heads)

    return normalize


def _rotate(space: Workspace, rope: tuple[Array, Array]) -> None:
    """Rotary positions of queries and keys, in place; see model/rope.py."""
    cos, sin = rope  # (R, 1, D), (R, 1, 2, D / 2)
    heads = space.queries_and_keys
    np.multiply(space.swapped, sin, space.rotated)
    np.multiply(heads, cos, heads)
    np.add(heads, space.flat_rotated, heads)


def _attend(attention: MultiHeadAttention) -> Attend:
    native, number, sizes = native_products(), attention.layer, attention.sizes
    if native is None or sizes[2] > MAX_HEAD_SIZE:
        return _numpy_attention(attention)
    n_threads = torch.get_num_threads()

    def attend(heads: Vectors, places: Places, result: Vectors) -> None:
        native.attention(heads, places.table, result, number, sizes, n_threads)

    return attend


def _numpy_attention(attention: MultiHeadAttention) -> Attend:
    """Token by token: matrix products of several tokens would round in another way."""
    number, (H, G, D) = attention.layer, attention.sizes

    def attend(heads: Vectors, places: Places, result: Vectors) -> None:
        rows = zip(heads.rows, places.rows, result.rows, strict=True)
        for of_token, (keys, values, end), flat_result in rows:
            q = of_token[: H * D].reshape(G, H // G, D)
            k, v = keys[number, :, :end], values[number, :, :end]  # (G, S, D)
            new = of_token[H * D :].reshape(2, G, D)
            k[:, -1], v[:, -1] = new
            weights = np.matmul(q, k.transpose(0, 2, 1))  # (G, H / G, S)
            weights -= weights.max(-1, keepdims=True)
            np.exp(weights, weights)
            weighted = np.matmul(weights, v)  # (G, H / G, D)
            weighted /= weights.sum(-1, keepdims=True)
            flat_result[:] = weighted.reshape(-1)

    return attend
