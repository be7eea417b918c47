"""Copies of weights in 16 bits: the same values, or none; the same bits in each product."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import posix_only
from hypothesis import given
from hypothesis import strategies as st

from simplellm.checkpoint.step_folder import open_model, write_checkpoint
from simplellm.checkpoint.training_state import TrainingState
from simplellm.config.model import ModelConfig
from simplellm.data.tokenizer import Tokenizer
from simplellm.inference import row_operations
from simplellm.inference.exact_weights import as_bfloat16, as_scaled_integers, exact_product
from simplellm.inference.native_products import BLOCK, native_products
from simplellm.inference.sampler import Sampler
from simplellm.inference.vectors import Vectors
from simplellm.model.transformer import SimpleLLM

SHAPES = st.tuples(st.integers(1, 7), st.integers(1, 9).map(lambda n: n * BLOCK))


def of_bfloat16(draw: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    weight = torch.from_numpy(draw.standard_normal(shape, np.float32))
    return weight.bfloat16().float().numpy()


def of_q4_1(draw: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """d * q + m in each block of 32; d and m have 11 bits, q has 4."""
    rows, columns = shape
    q = draw.integers(0, 16, (rows, columns // BLOCK, BLOCK)).astype(np.float32)
    d = draw.random((rows, columns // BLOCK, 1), np.float32).astype(np.float16) + np.float16(0.1)
    m = (-8 * d).astype(np.float16)
    return (d.astype(np.float32) * q + m.astype(np.float32)).reshape(shape)


def of_small_integers(draw: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return draw.integers(-9, 10, shape).astype(np.float32)


KINDS = {"bfloat16": of_bfloat16, "Q4_1": of_q4_1, "integers": of_small_integers}


@posix_only
@pytest.mark.parametrize("kind", KINDS)
@given(shape=SHAPES, seed=st.integers(0, 99))
def test_a_product_with_a_copy_has_the_bits_of_the_one_with_float32(
    kind: str, shape: tuple[int, int], seed: int
) -> None:
    products = native_products()
    if products is None:
        pytest.skip("no C compiler here: no copies are made")
    draw = np.random.default_rng(seed)
    weight, x = KINDS[kind](draw, shape), draw.standard_normal(shape[1], np.float32)
    product = exact_product(products, weight)
    assert product is not None
    found, expected = np.full((2, shape[0]), np.nan, np.float32)
    product(Vectors(x[None]), Vectors(found[None]))
    products.float32(weight)(Vectors(x[None]), Vectors(expected[None]))
    assert found.tobytes() == expected.tobytes()


@given(shape=SHAPES, seed=st.integers(0, 99))
def test_a_copy_has_the_same_values(shape: tuple[int, int], seed: int) -> None:
    draw = np.random.default_rng(seed)
    upper = as_bfloat16(weight := of_bfloat16(draw, shape))
    assert upper is not None
    assert ((upper.astype(np.uint32) << 16).view(np.float32) == weight).all()
    scaled = as_scaled_integers(weight := of_q4_1(draw, shape))
    assert scaled is not None
    assert (scaled[0] * np.repeat(scaled[1], BLOCK, 1) == weight).all()


@pytest.mark.parametrize("value", [0.1, np.nan, np.inf, 1e-45, 3e38])
def test_one_other_value_refuses_the_copy(value: float) -> None:
    weight = np.full((3, 2 * BLOCK), 1.5, np.float32)
    weight[2, BLOCK + 3] = np.float32(value)
    assert as_scaled_integers(weight) is None
    is_bfloat16 = np.isinf(value) or np.isnan(value)
    assert (as_bfloat16(weight) is not None) == is_bfloat16


def test_trained_weights_and_odd_shapes_have_no_copy() -> None:
    draw = np.random.default_rng(0)
    assert as_bfloat16(trained := draw.standard_normal((4, 64), np.float32)) is None
    assert as_scaled_integers(trained) is None
    assert as_scaled_integers(np.ones((4, 40), np.float32)) is None


@posix_only
def test_replies_do_not_depend_on_the_copies(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The copies are used by a model in bfloat16, but not for the table that is read by rows."""
    if native_products() is None:
        pytest.skip("no C compiler here: no copies are made")
    config = ModelConfig(n_layer=2, n_head=2, n_embd=64, vocab_size=tokenizer.vocab_size)
    network = SimpleLLM(config).init_weights(torch.Generator().manual_seed(1))
    network.to(torch.bfloat16).float()
    monkeypatch.setattr(row_operations, "LARGE_MATRIX_BYTES", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    shapes: list[tuple[int, ...]] = []

    def counted(products: object, weight: np.ndarray, bias: object) -> object:
        shapes.append(weight.shape)
        return exact_product(native_products(), weight)  # type: ignore[arg-type]

    monkeypatch.setattr(row_operations, "exact_product", counted)
    found = Sampler(network, tokenizer).next_logits([5, 6, 7]).copy()
    monkeypatch.setattr(row_operations, "exact_product", lambda *given: None)
    expected = Sampler(network, tokenizer).next_logits([5, 6, 7])
    assert found.tobytes() == expected.tobytes()
    assert len(shapes) == 4 * config.n_layer and (config.vocab_size, config.n_embd) not in shapes


def test_a_saved_gpt2_opens_with_the_layout_that_decoding_reads(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder has the matrices of the blocks transposed, as transformers wants them."""
    config = ModelConfig(
        architecture="gpt2", n_layer=1, n_head=2, n_embd=64, vocab_size=tokenizer.vocab_size
    )
    network = SimpleLLM(config).init_weights(torch.Generator().manual_seed(1))
    folder = tmp_path / "step-000001"
    folder.mkdir()
    write_checkpoint(folder, network, tokenizer, TrainingState({}, {}))
    opened = open_model(folder, torch.device("cpu"))
    matrices = [weight for weight in opened.model.parameters() if weight.dim() == 2]
    assert len(matrices) == 6 and all(weight.is_contiguous() for weight in matrices)
    monkeypatch.setattr(row_operations, "LARGE_MATRIX_BYTES", 1)
    found = Sampler(opened.model, tokenizer).next_logits([5, 6, 7])
    expected = network(torch.tensor([[5, 6, 7]]))[0, -1].detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
