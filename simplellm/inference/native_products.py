"""The operations of a layer in C: products (products.c), attention, norms and activations.

torch has no fast product of int8 weights and float vectors: `_weight_int8pack_mm` takes twice the
time that reading the weights takes, and numpy has none (measured: docs/performance.md). Where there
is no compiler, or where it fails, `native_products` is None and the caller uses numpy and torch.

The result for one vector has the same bits whatever other vectors are computed with it. Replies
that are computed together equal those that are computed alone because of that.

Shapes: R vectors; H heads, G key/value heads, D head size.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.random import Generator

from simplellm.inference.compiled_library import compiled_library
from simplellm.inference.vectors import Array, Vectors

VectorMap = Callable[[Vectors, Vectors], object]  # reads the first vectors, overwrites the second
SOURCES = tuple(
    Path(__file__).with_name(name) for name in ("products.c", "attention.c", "layers.c")
)
BLOCK = 32  # weights with one scale, as in products.c
PARALLEL_WEIGHTS = 1 << 16  # products of numbers; waking the threads costs more for fewer


class Scaling(NamedTuple):
    """How queries and keys are prepared: see `Attention` in attention.c."""

    gains: Array | None  # (H + G, D)
    rope: Array | None  # (2, positions, D)
    epsilon: float
    scale: float


# heads (R, (H + 2 G) D), which are changed, an array (R,) of PLACE, result (R, H D)
Attend = Callable[[Vectors, ctypes.c_void_p, Vectors], None]
F = TypeVar("F", bound=Callable[..., object])
PLACE = np.dtype([("keys", "i8"), ("values", "i8"), ("capacity", "i8"), ("position", "i8")])


POINTER, INTEGER, FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class _Matrix(ctypes.Structure):
    """`Matrix` of products.c."""

    _fields_ = (
        ("weight", POINTER), ("scale", POINTER), ("bias", POINTER), ("rows", INTEGER),
        ("columns", INTEGER), ("serial", INTEGER), ("threads", INTEGER),
    )  # fmt: skip


class _Attention(ctypes.Structure):
    """`Attention` of attention.c."""

    _fields_ = (
        ("layer", INTEGER), ("H", INTEGER), ("G", INTEGER), ("D", INTEGER), ("threads", INTEGER),
        ("positions", INTEGER), ("gains", POINTER), ("rope", POINTER), ("epsilon", FLOAT),
        ("scale", FLOAT),
    )  # fmt: skip


class _Norm(ctypes.Structure):
    """`Norm` of layers.c."""

    _fields_ = (
        ("gain", POINTER), ("bias", POINTER), ("size", INTEGER), ("threads", INTEGER),
        ("epsilon", FLOAT),
    )  # fmt: skip


class _Activation(ctypes.Structure):
    """`Activation` of layers.c."""

    _fields_ = (("size", INTEGER), ("threads", INTEGER))


class NativeProducts:
    """The functions of the compiled library. `is_threaded`: they use all cores.

    Arrays that are given must not be freed before the functions that are returned.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self.is_threaded = bool(library.is_threaded())

    def int8(self, weight: Array, scale: Array, bias: Array | None = None) -> VectorMap:
        """W x + `bias` for `weight` (rows, columns) int8 times `scale` (rows)."""
        return self._product("int8_product", weight, scale, bias)

    def float32(self, weight: Array, bias: Array | None = None) -> VectorMap:
        """W x + `bias` for `weight` (rows, columns) float32."""
        return self._product("float_product", weight, None, bias)

    def bfloat16(self, weight: Array, bias: Array | None = None) -> VectorMap:
        """That of a matrix of which `weight` (rows, columns) uint16 has the upper 16 bits."""
        return self._product("bfloat16_product", weight, None, bias)

    def scaled(self, weight: Array, scale: Array, bias: Array | None = None) -> VectorMap:
        """That of `weight` (rows, columns) int16 times `scale` (rows, columns / BLOCK)."""
        return self._product("scaled_product", weight, scale, bias)

    def norm(self, gain: Array, bias: Array | None, epsilon: float) -> VectorMap:
        """RMSNorm, or LayerNorm if there is a bias."""
        threads = torch.get_num_threads()
        structure = _Norm(_address(gain), _address(bias), len(gain), threads, epsilon)
        return self._map("norm", structure, (gain, bias))

    def swiglu(self, size: int) -> VectorMap:
        """silu(gate) * up (R, size) of gates and ups (R, 2 size)."""
        return self._map("swiglu", _Activation(size, torch.get_num_threads()))

    def gelu(self, size: int) -> VectorMap:
        """GELU by its tanh approximation, (R, size)."""
        return self._map("gelu", _Activation(size, torch.get_num_threads()))

    def attention(self, layer: int, sizes: tuple[int, int, int], scaling: Scaling) -> Attend:
        """Attention of R tokens in `layer`, with sizes H, G, D; see attention.c."""
        gains, rope, epsilon, scale = scaling
        positions = 0 if rope is None else rope.shape[1]
        threads, addresses = torch.get_num_threads(), (_address(gains), _address(rope))
        structure = _Attention(layer, *sizes, threads, positions, *addresses, epsilon, scale)
        reference, function = ctypes.byref(structure), self._function("attention")

        def attend(heads: Vectors, places: ctypes.c_void_p, result: Vectors) -> None:
            function(reference, heads.for_c, places, result.for_c, heads.count)

        return _keeping(attend, scaling)

    def _product(
        self, name: str, weight: Array, scale: Array | None, bias: Array | None
    ) -> VectorMap:
        assert weight.flags.c_contiguous, "the library reads row after row"
        addresses = _address(weight), _address(scale), _address(bias)
        serial = PARALLEL_WEIGHTS // max(weight.size, 1)
        structure = _Matrix(*addresses, *weight.shape, serial, torch.get_num_threads())
        return self._map(name, structure, (weight, scale, bias))

    def _map(self, name: str, structure: ctypes.Structure, arrays: object = None) -> VectorMap:
        reference, function = ctypes.byref(structure), self._function(name)

        def apply(x: Vectors, result: Vectors) -> None:
            function(reference, x.for_c, result.for_c, x.count)

        return _keeping(apply, arrays)

    def _function(self, name: str) -> Callable[..., object]:
        function: Callable[..., object] = getattr(self._library, name)
        function.restype = None  # type: ignore[attr-defined]
        return function  # without types of arguments, which would have to be converted


def _address(array: Array | None) -> int | None:
    return None if array is None else array.ctypes.data


def _keeping(function: F, arrays: object) -> F:
    """`function`, which keeps the memory of `arrays`."""
    function.arrays = arrays  # type: ignore[attr-defined]
    return function


@functools.cache
def native_products() -> NativeProducts | None:
    """The compiled library; None where it cannot be made or gives wrong results."""
    library = compiled_library(SOURCES)
    if library is None:
        return None
    products = NativeProducts(library)
    return products if _are_right(products) else None


def _are_right(products: NativeProducts) -> bool:
    """Whether small results equal those of numpy, and those for one vector those for several."""
    generator = np.random.default_rng(0)
    return all(_products_are_right(products, columns, generator) for columns in (192, 75)) and all(
        _attention_is_right(products, sizes, generator) for sizes in ((4, 2, 8), (2, 1, 64))
    )


def _products_are_right(products: NativeProducts, columns: int, generator: Generator) -> bool:
    weight = generator.integers(-127, 128, (9, columns)).astype(np.int8)
    scale, bias = generator.random((2, 9), np.float32)
    x = generator.random((13, columns), np.float32)
    floats = weight.astype(np.float32)
    upper_bits = (floats.view(np.uint32) >> 16).astype(np.uint16)
    maps = [products.float32(floats), products.bfloat16(upper_bits)]
    if columns % BLOCK == 0:
        ones = np.ones((9, columns // BLOCK), np.float32)
        maps.append(products.scaled(weight.astype(np.int16), ones))
    results = [both for multiply in maps for both in _together_and_alone(multiply, x)]
    of_int8 = _together_and_alone(products.int8(weight, scale, bias), x)
    return (
        all(np.array_equal(result, results[0]) for result in results)
        and np.array_equal(*of_int8)
        and np.allclose(results[0], x @ floats.T, rtol=1e-4, atol=1e-2)
        and np.allclose(of_int8[0], x @ floats.T * scale + bias, rtol=1e-4, atol=1e-2)
    )


def _together_and_alone(multiply: VectorMap, x: Array) -> tuple[Array, Array]:
    """Products with many vectors at once, and with each alone: (R, rows) both."""
    together, alone = np.empty((2, len(x), 9), np.float32)
    for some in (slice(11), slice(11, 13)):  # 6 + 4 + 1 and 2: all sizes of tiles
        multiply(Vectors(x[some]), Vectors(together[some]))
    for number in range(len(x)):
        multiply(Vectors(x[number : number + 1]), Vectors(alone[number : number + 1]))
    return together, alone


def _attention_is_right(
    products: NativeProducts, sizes: tuple[int, int, int], generator: Generator
) -> bool:
    """For a token after 99 others, by softmax in float64."""
    H, G, D = sizes
    keys, values = generator.standard_normal((2, 1, G, 100, D), np.float32)
    heads = generator.standard_normal((1, (H + 2 * G) * D), np.float32)
    result = Vectors(np.empty((1, H * D), np.float32))
    place = np.array([(keys.ctypes.data, values.ctypes.data, 100, 99)], PLACE)
    products.attention(0, sizes, Scaling(None, None, 0, 1))(
        Vectors(heads), ctypes.c_void_p(place.ctypes.data), result
    )
    queries, new_keys, new_values = np.split(heads.reshape(-1, D), [H, H + G])
    weights = np.exp(np.einsum("gid,gpd->gip", queries.reshape(G, -1, D), keys[0]).astype("f8"))
    expected = np.einsum("gip,gpd->gid", weights / weights.sum(-1, keepdims=True), values[0])
    return (
        np.array_equal(keys[0, :, -1], new_keys)
        and np.array_equal(values[0, :, -1], new_values)
        and np.allclose(result.array.ravel(), expected.ravel(), atol=1e-4)
    )
