"""Vectors that are computed together, in one array of fixed place in memory."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


class Vectors:
    """R vectors of n numbers: `array` (R, n) float32, contiguous; `rows` are its rows (n).

    `address` is that of the memory, for C.
    """

    __slots__ = ("address", "array", "rows")

    def __init__(self, array: Array) -> None:
        assert array.flags.c_contiguous and array.dtype == np.float32 and array.ndim == 2
        self.array = array
        self.address: int = array.ctypes.data
        self.rows = list(array)
