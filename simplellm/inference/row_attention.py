"""Attention of tokens of several texts, each to its own KV cache, in numpy or in C.

Shapes: R tokens, C n_embd, L layers, H heads, G key/value heads, D head size, S positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from simplellm.inference.native_products import Scaling, native_products
from simplellm.inference.places import Places
from simplellm.inference.row_operations import array, norm, product
from simplellm.inference.vectors import Array, Vectors
from simplellm.inference.workspace import Workspace
from simplellm.model.attention import MultiHeadAttention
from simplellm.model.block import TransformerBlock

# heads (R, (H + 2 G) D), which are changed, the places of the tokens, result (R, H D)
Attend = Callable[[Vectors, Places, Vectors], None]


def attention(block: TransformerBlock, rope: Array | None) -> Callable[[Workspace, Places], None]:
    """x += attention(norm(x)); keys and values are stored in the caches.

    rope: cos and sin of all positions, (2, P, D); None where positions are learned embeddings.
    """
    layer = block.attention
    normalize = norm(block.attention_norm)
    project_in = product(layer.qkv)
    project_out = product(layer.proj)
    attend = _attend(layer, _scaling(layer, rope))

    def add_attention(space: Workspace, places: Places) -> None:
        normalize(space.x, space.normed)
        project_in(space.normed, space.qkv)
        attend(space.qkv, places, space.attended)
        project_out(space.attended, space.added)
        np.add(space.x.array, space.added.array, space.x.array)

    return add_attention


def _scaling(attention: MultiHeadAttention, rope: Array | None) -> Scaling:
    """QK-norm, if any, and 1 / sqrt(D), which is applied to the queries."""
    H, G, D = attention.sizes
    if attention.q_norm is None or attention.k_norm is None:
        return Scaling(None, rope, 0.0, D**-0.5)
    q_gain = np.tile(array(attention.q_norm.weight), (H, 1))
    k_gain = np.tile(array(attention.k_norm.weight), (G, 1))
    gains = np.concatenate([q_gain, k_gain])
    gains *= np.float32(math.sqrt(D))  # because a sum of squares is no mean
    return Scaling(gains, rope, D * attention.q_norm.eps, D**-0.5)


def _attend(attention: MultiHeadAttention, scaling: Scaling) -> Attend:
    native = native_products()
    if native is None:
        return numpy_attention(attention.layer, attention.sizes, scaling)
    attend_in_c = native.attention(attention.layer, attention.sizes, scaling)

    def attend(heads: Vectors, places: Places, result: Vectors) -> None:
        attend_in_c(heads, places.for_c, result)

    return attend


def numpy_attention(layer: int, sizes: tuple[int, int, int], scaling: Scaling) -> Attend:
    """Token by token: matrix products of several tokens would round in another way."""
    H, G, D = sizes

    def attend(heads: Vectors, places: Places, result: Vectors) -> None:
        rows = zip(heads.rows, places.of_layer(layer), result.rows, strict=True)
        for of_token, (k, v), flat_result in rows:
            of_heads = of_token.reshape(H + 2 * G, D)
            _prepare(of_heads[: H + G], k.shape[1] - 1, H, scaling)
            q = of_heads[:H].reshape(G, H // G, D)
            k[:, -1], v[:, -1] = of_heads[H : H + G], of_heads[H + G :]
            weights = np.matmul(q, k.transpose(0, 2, 1))  # (G, H / G, S)
            weights -= weights.max(-1, keepdims=True)
            np.exp(weights, weights)
            weighted = np.matmul(weights, v)  # (G, H / G, D)
            weighted /= weights.sum(-1, keepdims=True)
            flat_result[:] = weighted.reshape(-1)

    return attend


def _prepare(heads: Array, position: int, n_queries: int, scaling: Scaling) -> None:
    """Norm, scale and rotary position of queries and keys (H + G, D) of a token, in place."""
    gains, rope, epsilon, scale = scaling
    if gains is not None:
        heads *= gains / np.sqrt(np.vecdot(heads, heads) + np.float32(epsilon))[:, None]
    heads[:n_queries] *= np.float32(scale)
    if rope is not None:
        cos, sin = rope[:, position]
        halves = heads.reshape(len(heads), 2, -1)
        swapped = halves[:, ::-1].reshape(heads.shape)
        heads[:] = heads * cos + swapped * sin
