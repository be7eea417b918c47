"""Vectors that are computed together, in one array of fixed place in memory."""

from __future__ import annotations

import ctypes

import numpy as np

Array = np.ndarray
CACHE_LINE = 16  # numbers


class Vectors:
    """R vectors of n numbers: `array` (R, n) float32, contiguous; `rows` are its rows (n).

    `for_c`: the address of the memory. `count`: R, for C. Objects that exist already make calls of
    C functions faster.
    """

    __slots__ = ("array", "count", "for_c", "rows")

    def __init__(self, array: Array) -> None:
        assert array.flags.c_contiguous and array.dtype == np.float32 and array.ndim == 2
        self.array = array
        self.for_c = ctypes.c_void_p(array.ctypes.data)
        self.count = ctypes.c_int64(len(array))
        self.rows = list(array)


def aligned(n: int) -> Array:
    """n numbers that begin at the border of a cache line, which makes vector loads faster."""
    memory = np.empty(n + CACHE_LINE, np.float32)
    start = -(memory.ctypes.data // memory.itemsize) % CACHE_LINE
    return memory[start : start + n]
