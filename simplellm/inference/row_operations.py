"""Operations on vectors, without allocation: norms, activations, products; in C or in numpy.

Each function builds one operation of a layer of the model and returns it. It takes any number of
vectors, up to MAX_ROWS; what it computes for one of them has the same bits whatever the others are.
Weights are not copied.

Shapes: R vectors, C width, I inner size.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from simplellm.inference.exact_weights import exact_product
from simplellm.inference.native_products import VectorMap, native_products
from simplellm.inference.quantize import Int8Linear
from simplellm.inference.vectors import Array, Vectors
from simplellm.model.feed_forward import MLP, GatedMLP
from simplellm.model.layers import RMSNorm

MAX_ROWS = 64  # vectors that are computed together
LARGE_MATRIX_BYTES = 1 << 20  # half the cache of one core; smaller ones stay there
GELU_SCALE = math.sqrt(2 / math.pi)  # Hendrycks and Gimpel 2016
GELU_CUBIC = 0.044715
ONE, HALF = np.array(1, np.float32), np.array(0.5, np.float32)


def activation(layer: MLP | GatedMLP) -> VectorMap:
    """SwiGLU (R, I) of gates and ups (R, 2 I), or GELU (R, I)."""
    native, is_gated = native_products(), isinstance(layer, GatedMLP)
    if native is not None:
        return (native.swiglu if is_gated else native.gelu)(layer.down.in_features)
    return _swiglu if is_gated else _gelu


def _swiglu(gate_up: Vectors, result: Vectors) -> None:
    """silu(gate) * up (R, I) of gates and ups (R, 2 I)."""
    n = result.array.shape[1]
    gate, up = gate_up.array[:, :n], gate_up.array[:, n:]
    activated = result.array
    np.negative(gate, activated)
    np.exp(activated, activated)
    np.add(activated, ONE, activated)
    np.divide(gate, activated, activated)
    np.multiply(activated, up, activated)


def _gelu(x: Vectors, result: Vectors) -> None:
    """GELU (tanh approximation) of x (R, I)."""
    inner = result.array
    np.multiply(x.array, x.array, inner)
    np.multiply(inner, np.float32(GELU_SCALE * GELU_CUBIC), inner)
    np.add(inner, np.float32(GELU_SCALE), inner)
    np.multiply(inner, x.array, inner)
    np.tanh(inner, inner)
    np.add(inner, ONE, inner)
    np.multiply(inner, HALF, inner)
    np.multiply(inner, x.array, inner)


def norm(module: nn.Module) -> VectorMap:
    """RMSNorm or LayerNorm of x (R, C)."""
    assert isinstance(module, RMSNorm | nn.LayerNorm), "the norms that architectures use"
    gain, bias = array(module.weight), optional_array(getattr(module, "bias", None))
    native = native_products()
    if native is not None:
        return native.norm(gain, bias, module.eps)
    return _rms_norm(gain, module.eps) if bias is None else _layer_norm(gain, bias, module.eps)


def _rms_norm(gain: Array, eps: float) -> VectorMap:
    normalize = _normalization(len(gain), eps)

    def norm(x: Vectors, result: Vectors) -> None:
        normalize(x.array, result.array)
        np.multiply(result.array, gain, result.array)

    return norm


def _layer_norm(gain: Array, bias: Array, eps: float) -> VectorMap:
    normalize = _normalization(len(gain), eps)
    means = np.empty((MAX_ROWS, 1), np.float32)
    width = np.array(len(gain), np.float32)

    def norm(x: Vectors, result: Vectors) -> None:
        mean, normed = means[: len(x.rows)], result.array
        np.add.reduce(x.array, axis=-1, out=mean, keepdims=True)
        np.divide(mean, width, mean)
        np.subtract(x.array, mean, normed)
        normalize(normed, normed)
        np.multiply(normed, gain, normed)
        np.add(normed, bias, normed)

    return norm


def _normalization(width: int, eps: float) -> Callable[[Array, Array], None]:
    """Each vector divided by the square root of its mean square + eps."""
    lengths = np.empty(MAX_ROWS, np.float32)
    size, epsilon = np.array(width, np.float32), np.array(eps, np.float32)

    def normalize(x: Array, result: Array) -> None:
        length = lengths[: len(x)]
        np.vecdot(x, x, length)
        np.divide(length, size, length)
        np.add(length, epsilon, length)
        np.sqrt(length, length)
        np.divide(x, length[:, None], result)

    return normalize


def product(module: nn.Module) -> VectorMap:
    """W x + b of a linear layer, or of an embedding table that is the output table.

    In C; without a compiler by numpy or torch, vector by vector.
    """
    bias, native = optional_array(getattr(module, "bias", None)), native_products()
    if isinstance(module, Int8Linear):
        if native is None:
            return _with_bias(_int8_product(module), bias)
        return native.int8(array(module.weight), array(cast("Tensor", module.scale).float()), bias)
    weight = array(module.weight)
    if native is None:
        return _with_bias(_float_product(weight), bias)
    # The token table is also read row by row; a second copy of it would be large.
    may_copy = not isinstance(module, nn.Embedding) and weight.nbytes >= LARGE_MATRIX_BYTES
    exact = exact_product(native, weight, bias) if may_copy else None
    return exact or native.float32(weight, bias)


def _with_bias(multiply: VectorMap, bias: Array | None) -> VectorMap:
    if bias is None:
        return multiply

    def affine(x: Vectors, result: Vectors) -> None:
        multiply(x, result)
        np.add(result.array, bias, result.array)

    return affine


def _float_product(weight: Array) -> VectorMap:
    """By numpy on one core, or on all cores where that is faster for a large matrix."""
    is_large = weight.nbytes >= LARGE_MATRIX_BYTES and torch.get_num_threads() > 1
    if is_large and _is_faster_in_torch(*weight.shape):
        return _one_by_one(_torch_product(weight))
    return _one_by_one(weight.dot)


def _one_by_one(multiply: Callable[[Array, Array], object]) -> VectorMap:
    """`multiply` of each vector alone."""

    def multiply_all(x: Vectors, result: Vectors) -> None:
        for row, of_row in zip(x.rows, result.rows, strict=True):
            multiply(row, of_row)

    return multiply_all


def _torch_product(weight: Array) -> Callable[[Array, Array], object]:
    matrix = torch.from_numpy(weight)

    @torch.inference_mode()
    def multiply(x: Array, result: Array) -> None:
        torch.mv(matrix, torch.from_numpy(x), out=torch.from_numpy(result))

    return multiply


@functools.cache
def _is_faster_in_torch(rows: int, columns: int) -> bool:
    """Measured once per shape: it depends on the number of cores and on their memory bandwidth."""
    weight = np.ones((rows, columns), np.float32)
    x = np.ones(columns, np.float32)
    result = np.empty(rows, np.float32)
    return _seconds(_torch_product(weight), x, result) < _seconds(weight.dot, x, result)


def _seconds(multiply: Callable[[Array, Array], object], x: Array, result: Array) -> float:
    seconds = []
    for _ in range(3):
        started_at = time.perf_counter()
        multiply(x, result)
        seconds.append(time.perf_counter() - started_at)
    return min(seconds)


def _int8_product(module: Int8Linear) -> VectorMap:
    @torch.inference_mode()
    def multiply(x: Array, result: Array) -> None:
        torch.from_numpy(result).copy_(module.product(torch.from_numpy(x)))

    return _one_by_one(multiply)


def array(weight: object) -> Array:
    """The numbers of a parameter, not copied."""
    return cast("nn.Parameter", weight).detach().numpy()


def optional_array(weight: object) -> Array | None:
    return None if weight is None else array(weight)
