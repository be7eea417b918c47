"""Products of matrices and vectors, and attention, in C (products.c, attention.c).

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

import numpy as np
import torch
from numpy.random import Generator

from simplellm.inference.compiled_library import compiled_library
from simplellm.inference.vectors import Array, Vectors

VectorMap = Callable[[Vectors, Vectors], object]  # reads the first vectors, overwrites the second
SOURCES = tuple(Path(__file__).with_name(name) for name in ("products.c", "attention.c"))
BLOCK = 32  # weights with one scale, as in products.c
MAX_HEAD_SIZE = 256  # as in attention.c
PARALLEL_WEIGHTS = 1 << 16  # products of numbers; waking the threads costs more for fewer
PLACE = np.dtype([("keys", "i8"), ("values", "i8"), ("capacity", "i8"), ("position", "i8")])


class NativeProducts:
    """The functions of the compiled library. `is_threaded`: they use all cores."""

    def __init__(self, library: ctypes.CDLL) -> None:
        names = ("int8", "float", "bfloat16", "scaled")
        self._functions = {name: getattr(library, f"{name}_product") for name in names}
        for function in self._functions.values():
            function.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 3 + [ctypes.c_int]
            function.restype = None
        self._attention = library.attention
        self._attention.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 5 + [ctypes.c_int]
        self._attention.restype = None
        self.is_threaded = bool(library.is_threaded())

    def int8(self, weight: Array, scale: Array) -> VectorMap:
        """The product of `weight` (rows, columns) int8, times `scale` (rows), with each vector."""
        return self._product("int8", weight, scale)

    def float32(self, weight: Array) -> VectorMap:
        """The product of `weight` (rows, columns) float32 with each vector."""
        return self._product("float", weight)

    def bfloat16(self, weight: Array) -> VectorMap:
        """That of a matrix of which `weight` (rows, columns) uint16 has the upper 16 bits."""
        return self._product("bfloat16", weight)

    def scaled(self, weight: Array, scale: Array) -> VectorMap:
        """That of `weight` (rows, columns) int16 times `scale` (rows, columns / BLOCK)."""
        return self._product("scaled", weight, scale)

    def attention(
        self,
        heads: Vectors,
        places: Array,
        result: Vectors,
        layer: int,
        sizes: tuple[int, int, int],
        n_threads: int,
    ) -> None:
        """Attention of R tokens; see attention.c. `places` (R,) are of type PLACE.

        heads (R, (H + 2 G) D), result (R, H D); sizes: H, G, D, of which D is at most
        MAX_HEAD_SIZE.
        """
        address, n = places.ctypes.data, len(heads.rows)
        self._attention(heads.address, address, result.address, n, layer, *sizes, n_threads)

    def _product(self, name: str, weight: Array, scale: Array | None = None) -> VectorMap:
        assert weight.flags.c_contiguous, "the library reads row after row"
        function = self._functions[name]
        address, size, shape = weight.ctypes.data, max(weight.size, 1), weight.shape
        scale_address = None if scale is None else scale.ctypes.data
        n_threads, serial_vectors = torch.get_num_threads(), PARALLEL_WEIGHTS // size

        def multiply(x: Vectors, result: Vectors) -> None:
            n = len(x.rows)
            threads = n_threads if n > serial_vectors else 1
            function(address, scale_address, x.address, result.address, *shape, n, threads)

        multiply.arrays = weight, scale  # type: ignore[attr-defined]  # whose memory is read
        return multiply


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
    scale, x = generator.random(9, np.float32), generator.random((9, columns), np.float32)
    floats = weight.astype(np.float32)
    upper_bits = (floats.view(np.uint32) >> 16).astype(np.uint16)
    maps = [products.float32(floats), products.bfloat16(upper_bits)]
    if columns % BLOCK == 0:
        ones = np.ones((9, columns // BLOCK), np.float32)
        maps.append(products.scaled(weight.astype(np.int16), ones))
    results = [both for multiply in maps for both in _together_and_alone(multiply, x)]
    of_int8 = _together_and_alone(products.int8(weight, scale), x)
    return (
        all(np.array_equal(result, results[0]) for result in results)
        and np.array_equal(*of_int8)
        and np.allclose(results[0], x @ floats.T, rtol=1e-4, atol=1e-2)
        and np.allclose(of_int8[0], x @ floats.T * scale, rtol=1e-4, atol=1e-2)
    )


def _together_and_alone(multiply: VectorMap, x: Array) -> tuple[Array, Array]:
    """Products with all vectors at once, and with each alone: (R, rows) both."""
    together, alone = np.empty((2, len(x), 9), np.float32)
    multiply(Vectors(x), Vectors(together))
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
    products.attention(Vectors(heads), place, result, 0, sizes, 1)
    queries, new_keys, new_values = np.split(heads.reshape(-1, D), [H, H + G])
    weights = np.exp(np.einsum("gid,gpd->gip", queries.reshape(G, -1, D), keys[0]).astype("f8"))
    expected = np.einsum("gip,gpd->gid", weights / weights.sum(-1, keepdims=True), values[0])
    return (
        np.array_equal(keys[0, :, -1], new_keys)
        and np.array_equal(values[0, :, -1], new_values)
        and np.allclose(result.array.ravel(), expected.ravel(), atol=1e-4)
    )
