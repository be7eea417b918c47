"""Products of a matrix and a vector in C (products.c), compiled by the C compiler of the machine.

torch has no fast product of int8 weights and one float vector: `_weight_int8pack_mm` takes twice
the time that reading the weights takes, and numpy has none (measured: docs/performance.md). Where
there is no compiler, or where it fails, `native_products` is None and the caller uses torch.

The library is compiled once (0.5 s) and kept in the user's cache folder. Its name depends on the
source, the compiler and the processor, so that it is only used where it fits.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

Array = np.ndarray
VectorMap = Callable[[Array, Array], object]  # reads the first vector, overwrites the second
SOURCE = Path(__file__).with_name("products.c")
COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O3", "-fPIC", "-shared")
COMPILE_SECONDS = 60  # at most
BLOCK = 32  # weights with one scale, as in products.c
PARALLEL_WEIGHTS = 1 << 16  # of a matrix; waking the threads costs more for a smaller one


class NativeProducts:
    """The functions of the compiled library, as maps of vectors."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._int8 = library.int8_product
        self._float = library.float_product
        self._bfloat16 = library.bfloat16_product
        self._scaled = library.scaled_product
        for function, n_arrays in (
            (self._int8, 4),
            (self._float, 3),
            (self._bfloat16, 3),
            (self._scaled, 4),
        ):
            pointers = [ctypes.c_void_p] * n_arrays
            function.argtypes = [*pointers, *[ctypes.c_int64] * 2, ctypes.c_int]
            function.restype = None

    def int8(self, weight: Array, scale: Array) -> VectorMap:
        """The product of `weight` (rows, columns) int8, times `scale` (rows), with a vector."""
        return _product(self._int8, weight, scale)

    def float32(self, weight: Array) -> VectorMap:
        """The product of `weight` (rows, columns) float32 with a vector."""
        return _product(self._float, weight)

    def bfloat16(self, weight: Array) -> VectorMap:
        """That of a matrix of which `weight` (rows, columns) uint16 has the upper 16 bits."""
        return _product(self._bfloat16, weight)

    def scaled(self, weight: Array, scale: Array) -> VectorMap:
        """That of `weight` (rows, columns) int16 times `scale` (rows, columns / BLOCK)."""
        return _product(self._scaled, weight, scale)


def _product(function: ctypes._NamedFuncPointer, *matrix: Array) -> VectorMap:
    """`function` of the arrays that store a matrix, the first of which has its shape."""
    shape = _shape(matrix[0])
    addresses = [array.ctypes.data for array in matrix]

    def multiply(x: Array, result: Array) -> None:
        function(*addresses, x.ctypes.data, result.ctypes.data, *shape)

    multiply.arrays = matrix  # type: ignore[attr-defined]  # whose memory the addresses name
    return multiply


def _shape(weight: Array) -> tuple[int, int, int]:
    """Rows, columns and threads."""
    assert weight.flags.c_contiguous, "the library reads row after row"
    rows, columns = weight.shape
    return rows, columns, torch.get_num_threads() if weight.size >= PARALLEL_WEIGHTS else 1


@functools.cache
def native_products() -> NativeProducts | None:
    """The compiled library; None where it cannot be made or gives wrong results."""
    if os.name != "posix":
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError, RuntimeError):  # no home folder
        products = NativeProducts(ctypes.CDLL(str(_library())))
        if _is_right(products):
            return products
    return None


def _library() -> Path:
    """The compiled library in the cache folder; OSError or SubprocessError if there is none."""
    compiler = _compiler()
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    flags = [*FLAGS, native]
    folder = _cache_folder()
    path = folder / f"products-{_fingerprint(compiler, flags)}.so"
    if not path.is_file():
        _compile(compiler, flags, path)
    return path


def _compiler() -> str:
    for name in (os.environ.get("CC", ""), *COMPILERS):
        if name and (path := shutil.which(name)):
            return path
    raise FileNotFoundError("no C compiler")


def _cache_folder() -> Path:
    """In XDG_CACHE_HOME or ~/.cache; only its owner may write there, because code is loaded."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    home = Path(named) if os.path.isabs(named) else Path.home() / ".cache"
    folder = home / "simplellm"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(f"others may write to {folder}")
    return folder


def _fingerprint(compiler: str, flags: list[str]) -> str:
    """Of all that decides what the library contains and on which machine it runs."""
    status = os.stat(compiler)
    parts = [compiler, str(status.st_size), str(status.st_mtime_ns), *flags, _processor()]
    digest = hashlib.sha256("\0".join(parts).encode() + SOURCE.read_bytes())
    return digest.hexdigest()[:16]


def _processor() -> str:
    """The instruction sets of the processor, where the system lists them."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.lower().startswith(("flags", "features")):
                return line
    return platform.machine() + platform.processor()


def _compile(compiler: str, flags: list[str], path: Path) -> None:
    """With threads of OpenMP if the compiler has them (the one of macOS has not)."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        output = Path(folder) / path.name
        for more in (["-fopenmp"], []):
            command = [compiler, *flags, *more, "-o", str(output), str(SOURCE)]
            done = subprocess.run(
                command, capture_output=True, stdin=subprocess.DEVNULL, timeout=COMPILE_SECONDS
            )
            if done.returncode == 0:
                os.replace(output, path)
                return
    raise FileNotFoundError("the C compiler fails")


def _is_right(products: NativeProducts) -> bool:
    """Whether small products equal those of numpy."""
    generator = np.random.default_rng(0)
    weight = generator.integers(-127, 128, (5, 150)).astype(np.int8)
    scale, x = generator.random(5, np.float32), generator.random(150, np.float32)
    result = np.empty(5, np.float32)
    expected = (weight.astype(np.float32) @ x) * scale
    products.int8(weight, scale)(x, result)
    is_right = np.allclose(result, expected, rtol=1e-4)
    products.float32(weight.astype(np.float32))(x, result)
    is_right &= np.allclose(result * scale, expected, rtol=1e-4)
    weight, x = weight[:, :128].astype(np.float32), x[:128].copy()
    products.float32(weight)(x, result)
    first = result.copy()
    products.bfloat16((weight.view(np.uint32) >> 16).astype(np.uint16))(x, result)
    is_right &= bool((result == first).all())
    products.scaled(weight.astype(np.int16), np.ones((5, 128 // BLOCK), np.float32))(x, result)
    return bool(is_right and (result == first).all())
