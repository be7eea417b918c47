"""One token at a time through the model, on a CPU: what a reply spends its time on.

For a single token every product is matrix times vector: each weight is read once and used once, so the
time goes to reading memory and to calling operators. numpy's calls cost a fifth of torch's, and its BLAS
reads memory twice as fast (measured: docs/speed.md). So this file says what model.py says, for one token,
in numpy, on the same weights and the same cache: nothing is copied, and nothing is allocated per token.

Shapes: C n_embd, H heads, G key/value heads, R = H / G, D head size, I inner size, S tokens so far, V vocabulary.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from torch import nn

from simplellm.inference.quantize import Int8Linear
from simplellm.model.transformer import (
    NORM_EPSILON,
    FeedForward,
    KVCache,
    MultiHeadAttention,
    RMSNorm,
    SimpleLLM,
    TransformerBlock,
)

Array = np.ndarray
Into = Callable[[Array, Array], object]  # reads the first, overwrites the second
Turn = Callable[
    [Array | None], None
]  # what is done to queries and keys, with the table (2, D) of this position
LARGE_MATRIX_BYTES = 4 << 20  # more than a core's own cache
LARGEST_SAFE_SCORE = 70.0  # exp of it, summed over a million tokens, is still a float32
GELU_SCALE, GELU_CUBIC = math.sqrt(2 / math.pi), 0.044715  # Hendrycks and Gimpel 2016


class Decoder:
    """Reads one token behind those in `cache`, which it shares with the model, and says what may come next."""

    def __init__(self, model: SimpleLLM, cache: KVCache) -> None:
        config = model.config
        assert cache.keys.shape[1] == 1, "one text at a time"
        self._cache = cache
        self._keys, self._values = (
            cache.keys.numpy()[:, 0],
            cache.values.numpy()[:, 0],
        )  # (L, G, capacity, D)
        self._embeddings = _array(model.token_embedding.weight)
        table = model.position_embedding
        self._positions = None if table is None else _array(table.weight)
        self._rope = (
            model.get_buffer("rope").numpy()[:, :, 0] if config.architecture == "modern" else None
        )
        blocks = cast("list[TransformerBlock]", list(model.blocks))
        weights = np.empty(
            (config.kv_heads, config.n_head // config.kv_heads, cache.capacity), np.float32
        )  # of attention
        self._layers = [(_attention(block, weights), _feed_forward(block)) for block in blocks]
        self._final_norm = _norm(model.final_norm)
        self._head = _product(getattr(model, "head", model.token_embedding))
        self._x, self._normed = np.empty((2, config.n_embd), np.float32)
        self._logits = np.empty(config.vocab_size, np.float32)

    def read(self, token: int) -> Array:
        """Logits (V,) float32 of the token after `token`; the next call overwrites them. The cache grows by one."""
        position, x = self._cache.length, self._x
        np.copyto(x, self._embeddings[token])
        if self._positions is not None:
            x += self._positions[position]
        rope = None if self._rope is None else self._rope[:, position]
        keys, values = self._keys[:, :, : position + 1], self._values[:, :, : position + 1]
        with np.errstate(over="ignore"):  # of exp in silu, where infinity is right
            for (attend, feed_forward), k, v in zip(self._layers, keys, values, strict=True):
                attend(x, rope, k, v)
                feed_forward(x)
        self._cache.length = position + 1
        self._final_norm(x, self._normed)
        self._head(self._normed, self._logits)
        return self._logits


def _attention(
    block: TransformerBlock, all_weights: Array
) -> Callable[[Array, Array | None, Array, Array], None]:
    """x += attention(norm(x)) for one token; k and v (G, S, D) are the cache, whose last row is this token's."""
    attention: MultiHeadAttention = block.attention
    H, G, D = attention.sizes
    norm, project_in, project_out = (
        _norm(block.attention_norm),
        _product(attention.qkv),
        _product(attention.proj),
    )
    heads = np.empty((H + 2 * G, D), np.float32)
    turn, is_bounded = (
        _rotation(attention, heads[: H + G]) if block.is_modern else _scaling(heads[:H])
    )
    qkv, q, new_k, new_v = (
        heads.reshape(-1),
        heads[:H].reshape(G, H // G, D),
        heads[H : H + G],
        heads[H + G :],
    )
    normed, added = np.empty((2, attention.qkv.in_features), np.float32)
    result = np.empty((G, H // G, D), np.float32)
    highest, total = np.empty((2, G, H // G, 1), np.float32)
    flat_result = result.reshape(-1)

    def attend(x: Array, rope: Array | None, k: Array, v: Array) -> None:
        norm(x, normed)
        project_in(normed, qkv)
        turn(rope)
        k[:, -1], v[:, -1] = new_k, new_v
        weights = all_weights[:, :, : k.shape[1]]
        np.matmul(q, k.transpose(0, 2, 1), weights)  # (G, R, S)
        if not is_bounded:
            np.maximum.reduce(weights, axis=-1, out=highest, keepdims=True)
            np.subtract(weights, highest, weights)
        np.exp(weights, weights)
        np.add.reduce(weights, axis=-1, out=total, keepdims=True)
        np.matmul(weights, v, result)  # (G, R, D)
        np.divide(result, total, result)
        project_out(flat_result, added)
        np.add(x, added, x)

    return attend


def _rotation(attention: MultiHeadAttention, heads: Array) -> tuple[Turn, bool]:
    """QK-norm, rotary position and 1 / sqrt(D) of the query and key heads (H + G, D), in place.

    Also whether their products are so small, by the gains of the norm (Cauchy and Schwarz), that exp needs no guard.
    """
    H, G, D = attention.sizes
    q_gain, k_gain = (_array(norm.weight) for norm in (attention.q_norm, attention.k_norm))
    is_bounded = bool(
        math.sqrt(D) * np.abs(q_gain).max() * np.abs(k_gain).max() < LARGEST_SAFE_SCORE
    )
    # sqrt(D): the sum below is no mean. What scales the scores is put into the queries.
    gains = np.concatenate(
        [np.tile(q_gain, (H, 1)), np.tile(k_gain * np.float32(math.sqrt(D)), (G, 1))]
    )
    epsilon = np.array(D * NORM_EPSILON["modern"], np.float32)
    length, turned = np.empty(H + G, np.float32), np.empty((H + G, 2, D // 2), np.float32)
    column, swapped = length[:, None], heads.reshape(H + G, 2, D // 2)[:, ::-1]
    flat_turned = turned.reshape(H + G, D)

    def turn(rope: Array | None) -> None:
        assert rope is not None
        np.vecdot(heads, heads, length)
        np.add(length, epsilon, length)
        np.sqrt(length, length)
        np.divide(heads, column, heads)
        np.multiply(heads, gains, heads)
        np.multiply(swapped, rope[1].reshape(2, D // 2), turned)
        np.multiply(heads, rope[0], heads)
        np.add(heads, flat_turned, heads)

    return turn, is_bounded


def _scaling(queries: Array) -> tuple[Turn, bool]:
    """Only 1 / sqrt(D): positions were added to the embeddings, and nothing bounds the scores."""
    scale = np.array(queries.shape[1] ** -0.5, np.float32)

    def turn(rope: Array | None) -> None:
        np.multiply(queries, scale, queries)

    return turn, False


def _feed_forward(block: TransformerBlock) -> Callable[[Array], None]:
    """x += feed_forward(norm(x)) for one token."""
    layer: FeedForward = block.feed_forward
    norm, up, down = _norm(block.feed_forward_norm), _product(layer.up), _product(layer.down)
    normed, added = np.empty((2, layer.up.in_features), np.float32)
    inner = np.empty(layer.up.out_features, np.float32)
    activate = _swiglu(inner) if layer.gated else _gelu(inner)

    def feed_forward(x: Array) -> None:
        norm(x, normed)
        up(normed, inner)
        down(activate(), added)
        np.add(x, added, x)

    return feed_forward


def _swiglu(gate_up: Array) -> Callable[[], Array]:
    """silu(gate) * up of what stands in `gate_up` (2 I,), in a buffer (I,)."""
    gate, up = gate_up.reshape(2, -1)
    result, one = np.empty_like(gate), np.array(1, np.float32)

    def activate() -> Array:
        np.negative(gate, result)
        np.exp(result, result)
        np.add(result, one, result)
        np.divide(gate, result, result)
        return np.multiply(result, up, result)

    return activate


def _gelu(x: Array) -> Callable[[], Array]:
    """GELU by tanh of what stands in `x` (I,), in place."""
    half, one, scale, cubic = (
        np.array(number, np.float32) for number in (0.5, 1, GELU_SCALE, GELU_SCALE * GELU_CUBIC)
    )
    bent = np.empty_like(x)

    def activate() -> Array:
        np.multiply(x, x, bent)
        np.multiply(bent, cubic, bent)
        np.add(bent, scale, bent)
        np.multiply(bent, x, bent)
        np.tanh(bent, bent)
        np.add(bent, one, bent)
        np.multiply(x, half, x)
        return np.multiply(x, bent, x)

    return activate


def _norm(module: nn.Module) -> Into:
    """RMSNorm or LayerNorm of x (C,)."""
    return (
        _rms_norm(_array(module.weight))
        if isinstance(module, RMSNorm)
        else _layer_norm(*map(_array, module.parameters()))
    )


def _rms_norm(gain: Array) -> Into:
    factor = np.empty((), np.float32)

    def norm(x: Array, result: Array) -> None:
        factor[()] = 1 / math.sqrt(x.dot(x) / len(gain) + NORM_EPSILON["modern"])
        np.multiply(x, gain, result)
        np.multiply(result, factor, result)

    return norm


def _layer_norm(gain: Array, bias: Array) -> Into:
    factor = np.empty((), np.float32)

    def norm(x: Array, result: Array) -> None:
        factor[()] = np.add.reduce(x) / len(gain)
        np.subtract(x, factor, result)
        factor[()] = 1 / math.sqrt(result.dot(result) / len(gain) + NORM_EPSILON["gpt2"])
        np.multiply(result, factor, result)
        np.multiply(result, gain, result)
        np.add(result, bias, result)

    return norm


def _product(module: nn.Module) -> Into:
    """W x + b of a matrix, or of an embedding table as the head."""
    multiply = (
        _int8_product(module)
        if isinstance(module, Int8Linear)
        else _float_product(_array(module.weight))
    )
    bias = getattr(module, "bias", None)
    if bias is None:
        return multiply
    offsets = _array(bias)

    def affine(x: Array, result: Array) -> None:
        multiply(x, result)
        np.add(result, offsets, result)

    return affine


def _float_product(weight: Array) -> Into:
    """numpy's on one core; torch's on all of them where the matrix is large and there are enough of them to win."""
    if weight.nbytes >= LARGE_MATRIX_BYTES and _is_faster_in_torch(*weight.shape):
        return _torch_product(weight)
    return cast("Into", weight.dot)


def _torch_product(weight: Array) -> Into:
    matrix = torch.from_numpy(weight)

    @torch.inference_mode()
    def multiply(x: Array, result: Array) -> None:
        torch.mv(matrix, torch.from_numpy(x), out=torch.from_numpy(result))

    return multiply


@functools.cache
def _is_faster_in_torch(rows: int, columns: int) -> bool:
    """Tried out, once for each shape: it depends on the cores and on how much one of them can read."""
    weight, x, result = (
        np.ones((rows, columns), np.float32),
        np.ones(columns, np.float32),
        np.empty(rows, np.float32),
    )
    return _seconds(_torch_product(weight), x, result) < _seconds(weight.dot, x, result)


def _seconds(multiply: Into, x: Array, result: Array) -> float:
    seconds = []
    for _ in range(3):
        started_at = time.perf_counter()
        multiply(x, result)
        seconds.append(time.perf_counter() - started_at)
    return min(seconds)


def _int8_product(module: Int8Linear) -> Into:
    @torch.inference_mode()
    def multiply(x: Array, result: Array) -> None:
        torch.from_numpy(result).copy_(module.product(torch.from_numpy(x)))

    return multiply


def _array(weight: object) -> Array:
    """The numbers of a parameter, not a copy."""
    return cast("nn.Parameter", weight).detach().numpy()
