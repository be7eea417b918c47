"""The compiled products: right, independent of the number of threads, and optional."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import posix_only
from hypothesis import given
from hypothesis import strategies as st

from simplellm.inference import compiled_library
from simplellm.inference import native_products as module
from simplellm.inference.native_products import NativeProducts, VectorMap, native_products
from simplellm.inference.vectors import Vectors

pytestmark = posix_only


@pytest.fixture(scope="module")
def products() -> NativeProducts:
    compiled = native_products()
    if compiled is None and not any(map(shutil.which, compiled_library.COMPILERS)):
        pytest.skip("no C compiler here: products are computed by numpy and torch")
    assert compiled is not None, "the compiler refuses the sources, or the results are wrong"
    return compiled


@pytest.fixture
def new_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty cache folder, and no library loaded. Without optimizations, to save time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiled_library, "FLAGS", ("-O0", "-fPIC", "-shared"))
    native_products.cache_clear()
    yield tmp_path / "simplellm"
    native_products.cache_clear()


def apply(multiply: VectorMap, x: np.ndarray, result: np.ndarray) -> None:
    multiply(Vectors(x[None]), Vectors(result[None]))


@given(
    rows=st.integers(1, 9), columns=st.integers(1, 300), seed=st.integers(0, 99),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
)  # fmt: skip
def test_products_equal_those_of_numpy(products, rows, columns, seed, scale):
    generator = np.random.default_rng(seed)
    weight = generator.integers(-127, 128, (rows, columns)).astype(np.int8)
    scales = (generator.random(rows, np.float32) * scale).astype(np.float32)
    x = generator.standard_normal(columns, np.float32)
    floats = weight.astype(np.float32) * scales[:, None]
    result = np.full(rows, np.nan, np.float32)
    tolerance = 1e-5 * scale * 127 * columns
    apply(products.int8(weight, scales), x, result)
    assert np.allclose(result, floats.astype(np.float64) @ x, atol=tolerance)
    apply(products.float32(floats), x, result)
    assert np.allclose(result, floats.astype(np.float64) @ x, atol=tolerance)


def test_the_number_of_threads_changes_no_bit(products, monkeypatch):
    monkeypatch.setattr(module, "PARALLEL_WEIGHTS", 1)
    generator = np.random.default_rng(0)
    weight = generator.integers(-127, 128, (201, 333)).astype(np.int8)
    scales, x = generator.random(201, np.float32), generator.random(333, np.float32)
    results = np.empty((3, 2, 201), np.float32)
    threads = torch.get_num_threads()
    try:
        for n_threads, (of_int8, of_float) in enumerate(results, 1):
            torch.set_num_threads(n_threads)
            apply(products.int8(weight, scales), x, of_int8)
            apply(products.float32(weight.astype(np.float32)), x, of_float)
    finally:
        torch.set_num_threads(threads)
    assert (results == results[0]).all()


def change_sources(monkeypatch, folder: Path, old: str, new: str) -> None:
    """Copies of the sources in `folder`, with `old` replaced by `new`, are compiled from now on."""
    for path in [*module.SOURCES, module.SOURCES[0].with_name("vectors.h")]:
        (folder / path.name).write_text(path.read_text().replace(old, new))
    paths = tuple(folder / path.name for path in module.SOURCES)
    monkeypatch.setattr(module, "SOURCES", paths)
    native_products.cache_clear()


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("case 2: name##_tile_4_2", "case 2: name##_tile_4_1"),  # leaves a vector out
        pytest.param(
            "sums[j * m + i] += v * xs[j]", "sums[j * m + i] -= v * xs[j]", marks=pytest.mark.slow
        ),
        pytest.param(  # of positions after the last
            "weights[i] = 0;", "weights[i] = 1;", marks=pytest.mark.slow
        ),
    ],
)
def test_a_library_that_computes_something_else_is_not_used(
    products, new_cache, monkeypatch, tmp_path, right, wrong
):
    change_sources(monkeypatch, tmp_path, right, wrong)
    assert native_products() is None
