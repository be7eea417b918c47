"""Copies of float32 matrices in 16 bits that have exactly the same values.

Decoding one token reads every weight once, so half the bytes take half the time. Open models are
published in bfloat16, whose values are float32 numbers with 16 zero bits at the end. Values of Q4_1
and Q4_0 are 15-bit multiples of a power of two in each block of 32. The products in products.c
convert a weight back before they multiply it: results have the bits of those with float32 weights.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import torch

from simplellm.inference.native_products import BLOCK, NativeProducts, VectorMap
from simplellm.inference.vectors import Array

WEIGHTS_AT_ONCE = 1 << 18  # converted together, in the cache
INTEGER_BITS = 15  # of int16, besides the sign


def exact_product(
    products: NativeProducts, weight: Array, bias: Array | None = None
) -> VectorMap | None:
    """W x + `bias` with a copy of `weight` (rows, columns) in 16 bits; None if none is exact."""
    if sys.byteorder == "little" and (bfloat16 := as_bfloat16(weight)) is not None:
        return products.bfloat16(bfloat16, bias)
    scaled = as_scaled_integers(weight)
    return products.scaled(*scaled, bias) if scaled else None


def as_bfloat16(weight: Array) -> Array | None:
    """The upper 16 bits (rows, columns) of all weights; None if others are not zero."""
    halves = weight.view(np.uint16).reshape(*weight.shape, 2)
    if any(halves[rows, :, 0].any() for rows in _parts(weight)):
        return None
    return halves[:, :, 1].copy()


def as_scaled_integers(weight: Array) -> tuple[Array, Array] | None:
    """Integers (rows, columns) int16, and a power of two for each block of BLOCK in a row.

    None if their product is not `weight`.
    """
    n_rows, n_columns = weight.shape
    if n_columns % BLOCK:
        return None
    integers = np.empty(weight.shape, np.int16)
    scales = np.empty((n_rows, n_columns // BLOCK), np.float32)
    for rows in _parts(weight):
        blocks = weight[rows].reshape(-1, BLOCK)
        highest = torch.from_numpy(blocks).abs().amax(1).numpy()  # numpy takes 9 times as long
        _, exponents = np.frexp(highest)
        scale = np.ldexp(np.float32(1), exponents - INTEGER_BITS)[:, None]
        with np.errstate(all="ignore"):  # tiny and infinite numbers, which the comparison refuses
            numbers = (blocks / scale).astype(np.int16)
            if not np.array_equal(numbers * scale, blocks):
                return None
        integers[rows] = numbers.reshape(-1, n_columns)
        scales[rows] = scale.reshape(-1, n_columns // BLOCK)
    return integers, scales


def _parts(weight: Array) -> Iterator[slice]:
    """Slices of rows."""
    n_rows, n_columns = weight.shape
    step = max(WEIGHTS_AT_ONCE // n_columns, 1)
    return (slice(start, start + step) for start in range(0, n_rows, step))
