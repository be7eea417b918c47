"""Decoding of one token at a time on a CPU, in numpy: the inner loop of text generation.

For a single token every product is a matrix times a vector: each weight is read once and used once,
so that the time goes to reading memory and to calling operators. numpy's calls take a fifth of the
time of torch's, and its BLAS reads memory twice as fast (measured: docs/performance.md). The
computation is that of model/ on the same weights and the same cache. Nothing is allocated per
token: every buffer is made once, when the decoder is built. Weights are copied only where 16 bits
hold the same values (exact_weights.py).

The kinds of layers decide what is computed (RMSNorm or LayerNorm, MLP or GatedMLP, rotary or
learned positions, with or without QK-norm), not the name of the architecture.

Shapes: L blocks, C n_embd, H heads, G key/value heads, R = H / G, D head size, I inner size,
P positions, S tokens so far, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import numpy as np

from simplellm.inference.native_products import Array
from simplellm.inference.vector_operations import array, gelu, norm, product, swiglu
from simplellm.model.attention import MultiHeadAttention
from simplellm.model.block import TransformerBlock
from simplellm.model.cache import KVCache
from simplellm.model.feed_forward import MLP, GatedMLP
from simplellm.model.transformer import SimpleLLM

# x (C), rope (2, D), k and v (G, S, D), attention weights (G, R, S), which are overwritten
Attend = Callable[[Array, Array | None, Array, Array, Array], None]
MAX_SAFE_SCORE = 70.0  # its exp, summed over a million tokens, is still a finite float32


class Decoder:
    """Computes logits token by token. `cache` is shared with the model and has one row (B = 1).

    `use` continues another text, which has a cache of its own.
    """

    def __init__(self, model: SimpleLLM, cache: KVCache) -> None:
        config = model.config
        assert cache.keys.shape[1] == 1, "one text at a time"
        positions = model.position_embedding
        rope = model.rope
        self._cache = cache
        self._embeddings = array(model.token_embedding.weight)  # (V, C)
        self._positions = None if positions is None else array(positions.weight)  # (P, C)
        self._rope = None if rope is None else rope.numpy()[:, :, 0]  # (2, P, D)
        blocks = cast("list[TransformerBlock]", list(model.blocks))
        self._groups = (config.kv_heads, config.n_head // config.kv_heads)  # G, R
        self._layers = [
            (_attention(block, is_rotary=rope is not None), _feed_forward(block))
            for block in blocks
        ]
        self._bind()
        self._final_norm = norm(model.final_norm)
        self._head = product(getattr(model, "head", model.token_embedding))
        self._x, self._normed = np.empty((2, config.n_embd), np.float32)
        self._logits = np.empty(config.vocab_size, np.float32)

    def use(self, cache: KVCache) -> None:
        """Read the next tokens into `cache`, which has one row."""
        if cache is not self._cache:
            self._cache = cache
            self._bind()

    def _bind(self) -> None:
        """Take the arrays of the cache, which are others after it has grown."""
        cache = self._cache
        self._bound = cache.keys
        self._keys = cache.keys.numpy()[:, 0]  # (L, G, capacity, D)
        self._values = cache.values.numpy()[:, 0]  # (L, G, capacity, D)
        self._weights = np.empty((*self._groups, cache.capacity), np.float32)  # (G, R, capacity)

    def read(self, token: int) -> Array:
        """Append `token` to the cache; returns the logits (V,) float32 of the token after it.

        The next call overwrites them.
        """
        position = self._cache.length
        self._cache.reserve(position + 1)
        if self._cache.keys is not self._bound:
            self._bind()
        x = self._x
        np.copyto(x, self._embeddings[token])
        if self._positions is not None:
            x += self._positions[position]
        rope = None if self._rope is None else self._rope[:, position]  # (2, D)
        keys = self._keys[:, :, : position + 1]
        values = self._values[:, :, : position + 1]
        weights = self._weights[:, :, : position + 1]
        with np.errstate(over="ignore"):  # exp in silu may overflow to infinity, which is right
            for (attend, feed_forward), k, v in zip(self._layers, keys, values, strict=True):
                attend(x, rope, k, v, weights)
                feed_forward(x)
        self._cache.length = position + 1
        self._final_norm(x, self._normed)
        self._head(self._normed, self._logits)
        return self._logits


def _attention(block: TransformerBlock, *, is_rotary: bool) -> Attend:
    """x += attention(norm(x)) for one token; its key and value become the last rows of k and v."""
    attention = block.attention
    H, G, D = attention.sizes
    normalize_x = norm(block.attention_norm)
    project_in = product(attention.qkv)
    project_out = product(attention.proj)
    heads = np.empty((H + 2 * G, D), np.float32)
    qkv = heads.reshape(-1)
    q = heads[:H].reshape(G, H // G, D)
    new_k = heads[H : H + G]
    new_v = heads[H + G :]
    scale = _scaling(attention, heads[: H + G])
    rotate = _rotation(heads[: H + G]) if is_rotary else None
    are_scores_safe = _are_scores_safe(attention)
    normed, added = np.empty((2, attention.qkv.in_features), np.float32)
    result = np.empty((G, H // G, D), np.float32)
    flat_result = result.reshape(-1)
    highest, total = np.empty((2, G, H // G, 1), np.float32)

    def attend(x: Array, rope: Array | None, k: Array, v: Array, weights: Array) -> None:
        normalize_x(x, normed)
        project_in(normed, qkv)
        scale()
        if rotate is not None and rope is not None:
            rotate(rope)
        k[:, -1] = new_k
        v[:, -1] = new_v
        np.matmul(q, k.transpose(0, 2, 1), weights)
        if not are_scores_safe:
            np.maximum.reduce(weights, axis=-1, out=highest, keepdims=True)
            np.subtract(weights, highest, weights)
        np.exp(weights, weights)
        np.add.reduce(weights, axis=-1, out=total, keepdims=True)
        np.matmul(weights, v, result)  # (G, R, D)
        np.divide(result, total, result)
        project_out(flat_result, added)
        np.add(x, added, x)

    return attend


def _are_scores_safe(attention: MultiHeadAttention) -> bool:
    """Whether QK-norm bounds all scores so that exp cannot overflow (Cauchy-Schwarz inequality)."""
    if attention.q_norm is None or attention.k_norm is None:
        return False
    q_gain = np.abs(array(attention.q_norm.weight)).max()
    k_gain = np.abs(array(attention.k_norm.weight)).max()
    return bool(math.sqrt(attention.sizes[2]) * q_gain * k_gain < MAX_SAFE_SCORE)


def _scaling(attention: MultiHeadAttention, heads: Array) -> Callable[[], None]:
    """QK-norm, if any, and 1 / sqrt(D) of the query and key heads (H + G, D), in place.

    The scale of the scores is applied to the queries.
    """
    H, G, D = attention.sizes
    if attention.q_norm is None or attention.k_norm is None:
        queries = heads[:H]
        factor = np.array(D**-0.5, np.float32)
        return lambda: np.multiply(queries, factor, queries)
    q_gain = np.tile(array(attention.q_norm.weight), (H, 1))
    k_gain = np.tile(array(attention.k_norm.weight) * np.float32(math.sqrt(D)), (G, 1))
    gains = np.concatenate([q_gain, k_gain])  # with sqrt(D), because a sum of squares is no mean
    epsilon = np.array(D * attention.q_norm.eps, np.float32)
    length = np.empty(H + G, np.float32)
    column = length[:, None]

    def normalize() -> None:
        np.vecdot(heads, heads, length)
        np.add(length, epsilon, length)
        np.sqrt(length, length)
        np.divide(heads, column, heads)
        np.multiply(heads, gains, heads)

    return normalize


def _rotation(heads: Array) -> Callable[[Array], None]:
    """Rotary position of the query and key heads (H + G, D), in place; see model/rope.py."""
    n_heads, D = heads.shape
    swapped = heads.reshape(n_heads, 2, D // 2)[:, ::-1]
    rotated = np.empty((n_heads, 2, D // 2), np.float32)
    flat_rotated = rotated.reshape(n_heads, D)

    def rotate(rope: Array) -> None:  # (2, D)
        np.multiply(swapped, rope[1].reshape(2, D // 2), rotated)
        np.multiply(heads, rope[0], heads)
        np.add(heads, flat_rotated, heads)

    return rotate


def _feed_forward(block: TransformerBlock) -> Callable[[Array], None]:
    """x += feed_forward(norm(x)) for one token."""
    layer: MLP | GatedMLP = block.feed_forward
    normalize_x = norm(block.feed_forward_norm)
    up = product(layer.up)
    down = product(layer.down)
    normed, added = np.empty((2, layer.up.in_features), np.float32)
    inner = np.empty(layer.up.out_features, np.float32)
    activate = swiglu(inner) if isinstance(layer, GatedMLP) else gelu(inner)

    def feed_forward(x: Array) -> None:
        normalize_x(x, normed)
        up(normed, inner)
        down(activate(), added)
        np.add(x, added, x)

    return feed_forward
