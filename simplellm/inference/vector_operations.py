"""Operations on single vectors in numpy, without allocation: norms, activations, products.

Each function builds one operation of a layer of the model, with its buffers, and returns it.
Weights are not copied.

Shapes: C width, I inner size.
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
from simplellm.inference.native_products import Array, VectorMap, native_products
from simplellm.inference.quantize import Int8Linear
from simplellm.model.layers import RMSNorm

LARGE_MATRIX_BYTES = 1 << 20  # half the cache of one core; smaller ones stay there
GELU_SCALE = math.sqrt(2 / math.pi)  # Hendrycks and Gimpel 2016
GELU_CUBIC = 0.044715


def swiglu(gate_up: Array) -> Callable[[], Array]:
    """silu(gate) * up of the content of `gate_up` (2 I,), in a buffer (I,)."""
    gate, up = gate_up.reshape(2, -1)
    result = np.empty_like(gate)
    one = np.array(1, np.float32)

    def activate() -> Array:
        np.negative(gate, result)
        np.exp(result, result)
        np.add(result, one, result)
        np.divide(gate, result, result)
        return np.multiply(result, up, result)

    return activate


def gelu(x: Array) -> Callable[[], Array]:
    """GELU (tanh approximation) of the content of `x` (I,), in place."""
    half = np.array(0.5, np.float32)
    one = np.array(1, np.float32)
    scale = np.array(GELU_SCALE, np.float32)
    cubic = np.array(GELU_SCALE * GELU_CUBIC, np.float32)
    inner = np.empty_like(x)

    def activate() -> Array:
        np.multiply(x, x, inner)
        np.multiply(inner, cubic, inner)
        np.add(inner, scale, inner)
        np.multiply(inner, x, inner)
        np.tanh(inner, inner)
        np.add(inner, one, inner)
        np.multiply(x, half, x)
        return np.multiply(x, inner, x)

    return activate


def norm(module: nn.Module) -> VectorMap:
    """RMSNorm or LayerNorm of x (C,)."""
    if isinstance(module, RMSNorm):
        return _rms_norm(array(module.weight), module.eps)
    assert isinstance(module, nn.LayerNorm), "the norms that architectures use"
    return _layer_norm(array(module.weight), array(module.bias), module.eps)


def _rms_norm(gain: Array, eps: float) -> VectorMap:
    factor = np.empty((), np.float32)

    def norm(x: Array, result: Array) -> None:
        factor[()] = 1 / math.sqrt(x.dot(x) / len(gain) + eps)
        np.multiply(x, gain, result)
        np.multiply(result, factor, result)

    return norm


def _layer_norm(gain: Array, bias: Array, eps: float) -> VectorMap:
    factor = np.empty((), np.float32)

    def norm(x: Array, result: Array) -> None:
        factor[()] = np.add.reduce(x) / len(gain)
        np.subtract(x, factor, result)
        factor[()] = 1 / math.sqrt(result.dot(result) / len(gain) + eps)
        np.multiply(result, factor, result)
        np.multiply(result, gain, result)
        np.add(result, bias, result)

    return norm


def product(module: nn.Module) -> VectorMap:
    """W x + b of a linear layer, or of an embedding table that is the output table."""
    if isinstance(module, Int8Linear):
        return _with_bias(_int8_product(module), module.bias)
    # The token table is also read row by row; a second copy of it would be large.
    may_copy = not isinstance(module, nn.Embedding)
    weight = array(module.weight)
    return _with_bias(_float_product(weight, may_copy), getattr(module, "bias", None))


def _with_bias(multiply: VectorMap, bias: object) -> VectorMap:
    if bias is None:
        return multiply
    offsets = array(bias)

    def affine(x: Array, result: Array) -> None:
        multiply(x, result)
        np.add(result, offsets, result)

    return affine


def _float_product(weight: Array, may_copy: bool) -> VectorMap:
    """By numpy on one core, or on all cores where that is faster for a large matrix.

    may_copy: read a copy with fewer bytes where it has the same values.
    """
    if weight.nbytes < LARGE_MATRIX_BYTES:
        return cast("VectorMap", weight.dot)
    native = native_products()
    if native is not None and may_copy and (exact := exact_product(native, weight)):
        return exact
    if torch.get_num_threads() == 1:
        return cast("VectorMap", weight.dot)
    if native is not None:
        return native.float32(weight)
    if _is_faster_in_torch(*weight.shape):
        return _torch_product(weight)
    return cast("VectorMap", weight.dot)


def _torch_product(weight: Array) -> VectorMap:
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


def _seconds(multiply: VectorMap, x: Array, result: Array) -> float:
    seconds = []
    for _ in range(3):
        started_at = time.perf_counter()
        multiply(x, result)
        seconds.append(time.perf_counter() - started_at)
    return min(seconds)


def _int8_product(module: Int8Linear) -> VectorMap:
    native = native_products()
    if native is not None:
        return native.int8(array(module.weight), array(cast("Tensor", module.scale).float()))

    @torch.inference_mode()
    def multiply(x: Array, result: Array) -> None:
        torch.from_numpy(result).copy_(module.product(torch.from_numpy(x)))

    return multiply


def array(weight: object) -> Array:
    """The numbers of a parameter, not copied."""
    return cast("nn.Parameter", weight).detach().numpy()
