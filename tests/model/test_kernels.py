"""Kernels and losses compute what torch's own operators compute, and so do their gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from simplellm.model.kernels import (
    _attention_to_compile,
    causal_attention,
    dropout,
    matmul_dtype,
    rms_norm,
    swiglu,
)
from simplellm.model.losses import cross_entropy, r_drop_cross_entropy

EXACT = {"atol": 2e-6, "rtol": 2e-5}
BF16 = {"atol": 0.03, "rtol": 0.05}
Operator = Callable[..., Tensor]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def value_and_gradients(operator: Operator, *inputs: Tensor) -> list[Tensor]:
    """The result, and the gradient of each input of a weighted sum over it."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    result = operator(*leaves)
    (result.float() * (random(*result.shape, seed=99) if result.dim() else 3.0)).sum().backward()
    return [result.detach(), *(leaf.grad for leaf in leaves)]


def assert_same(ours: Operator, plain: Operator, *inputs: Tensor, **tolerance: float) -> None:
    mine, theirs = value_and_gradients(ours, *inputs), value_and_gradients(plain, *inputs)
    assert [x.shape for x in mine] == [x.shape for x in theirs]
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one.float(), other.float(), **(tolerance or EXACT))


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1, enable_gqa=True)


def qkv(H: int, G: int, T: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [random(2, heads, T, 8, seed=seed, dtype=dtype) for seed, heads in enumerate((H, G, G))]


@pytest.mark.parametrize("shape", [(1, 8), (2, 5, 32), (2, 3, 4, 16)])
def test_rms_norm_equals_torch(shape):
    weight = 1 + random(shape[-1], seed=1) / 4
    assert_same(
        lambda x, w: rms_norm(x, w, 1e-6),
        lambda x, w: F.rms_norm(x, w.shape, w, 1e-6),
        3 * random(*shape),
        weight,
        atol=1e-5,
        rtol=1e-4,
    )


def test_rms_norm_of_zeros_is_zero_with_a_finite_gradient():
    value, gradient = value_and_gradients(
        lambda x: rms_norm(x, torch.ones(8), 1e-6), torch.zeros(2, 8)
    )
    assert not value.any() and bool(gradient.isfinite().all())


@pytest.mark.parametrize(("H", "G"), [(4, 4), (4, 2), (4, 1), (1, 1)])
@pytest.mark.parametrize("T", [1, 2, 7, 300])
def test_causal_attention_equals_torch(H, G, T):
    assert_same(causal_attention, plain_attention, *qkv(H, G, T), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("T", [1, 7, 300])
def test_attention_for_the_compiler_equals_torch(T):
    assert_same(_attention_to_compile, plain_attention, *qkv(4, 4, T), atol=1e-5, rtol=1e-4)


def test_no_gradient_of_attention_reaches_a_later_token():
    q, k, v = (x.requires_grad_() for x in qkv(2, 2, 6))
    causal_attention(q, k, v)[:, :, :3].sum().backward()
    assert all(bool(x.grad[:, :, :3].any()) and not x.grad[:, :, 3:].any() for x in (k, v))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_cross_entropy_equals_torch(smoothing):
    targets = torch.tensor([0, 3, 3, 10, 6])
    assert_same(
        lambda x: cross_entropy(x, targets, smoothing),
        lambda x: F.cross_entropy(x, targets, label_smoothing=smoothing),
        4 * random(5, 11),
    )


def plain_consistent(x: Tensor, targets: Tensor, smoothing: float, weight: float) -> Tensor:
    p, q = x.log_softmax(-1).chunk(2)
    divergence = (
        F.kl_div(q, p, log_target=True, reduction="sum")
        + F.kl_div(p, q, log_target=True, reduction="sum")
    ) / 2
    return F.cross_entropy(
        x, targets.repeat(2), label_smoothing=smoothing
    ) + weight * divergence / len(targets)


@pytest.mark.parametrize("weight", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_r_drop_adds_the_divergence_of_both_passes(smoothing, weight):
    targets = torch.tensor([0, 3, 3, 10, 6])
    assert_same(
        lambda x: r_drop_cross_entropy(x, targets, smoothing, weight),
        lambda x: plain_consistent(x, targets, smoothing, weight),
        2 * random(10, 11),
        atol=1e-5,
        rtol=1e-4,
    )


def test_r_drop_of_equal_passes_is_the_cross_entropy():
    targets, logits = torch.tensor([0, 3]), random(2, 11)
    both = r_drop_cross_entropy(logits.repeat(2, 1).requires_grad_(), targets, 0.0, 5.0)
    assert float(both.detach()) == pytest.approx(float(F.cross_entropy(logits, targets)), abs=1e-6)


def test_a_target_of_probability_zero_has_a_finite_loss_and_the_exact_gradient():
    targets, logits = torch.tensor([1]), torch.tensor([[500.0, -500.0]])
    value, gradient = value_and_gradients(lambda x: cross_entropy(x, targets), logits)
    assert bool(value.isfinite()) and gradient.tolist() == [[3.0, -3.0]]


def test_values_are_the_same_with_and_without_gradients():
    targets = torch.tensor([0, 3, 3, 10, 6])
    calls = [
        lambda: rms_norm(random(3, 8), torch.ones(8), 1e-6),
        lambda: causal_attention(*qkv(4, 2, 7)),
        lambda: cross_entropy(random(5, 11), targets, 0.1),
        lambda: r_drop_cross_entropy(random(10, 11), targets, 0.1, 2.0),
    ]
    for call in calls:
        with torch.no_grad():
            plain = call()
        torch.testing.assert_close(call(), plain, **EXACT)


def test_bf16_results_are_within_its_precision():
    weight, targets = torch.ones(32), torch.tensor([0, 3, 3, 10, 6])
    pairs: list[tuple[Operator, Operator, list[Tensor]]] = [
        (
            lambda x: rms_norm(x, weight, 1e-6),
            lambda x: F.rms_norm(x, (32,), weight, 1e-6),
            [random(4, 32)],
        ),
        (causal_attention, plain_attention, qkv(4, 2, 9)),
        (
            lambda x: cross_entropy(x, targets, 0.1),
            lambda x: F.cross_entropy(x, targets, label_smoothing=0.1),
            [random(5, 11)],
        ),
    ]
    for ours, plain, inputs in pairs:
        rounded = [x.bfloat16() for x in inputs]
        mine, theirs = (
            value_and_gradients(ours, *rounded),
            value_and_gradients(plain, *(x.float() for x in rounded)),
        )
        assert [x.dtype for x in mine[1:]] == [torch.bfloat16] * len(inputs)
        for one, other in zip(mine, theirs, strict=True):
            torch.testing.assert_close(one.float(), other, **BF16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_swiglu_has_the_bits_of_torch_and_keeps_its_input_only(dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 7, 2 * 37, generator=generator).to(dtype).requires_grad_()
    grad = torch.randn(3, 7, 37, generator=generator).to(dtype)
    gate, up = x.chunk(2, dim=-1)
    expected = F.silu(gate) * up
    (expected_grad,) = torch.autograd.grad(expected, x, grad)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda nothing: x.detach()):
        actual = swiglu(x)
    (actual_grad,) = torch.autograd.grad(actual, x, grad)
    assert torch.equal(actual, expected) and torch.equal(actual_grad, expected_grad)
    assert [tensor.data_ptr() for tensor in kept] == [x.data_ptr()]


def test_a_norm_returns_the_number_format_of_matrix_products():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = (
            rms_norm(random(2, 8).requires_grad_(), torch.ones(8), 1e-6),
            matmul_dtype(random(2)),
        )
        kept = rms_norm(random(2, 8).requires_grad_(), torch.ones(8), 1e-6, torch.float32)
    assert (inside[0].dtype, inside[1], kept.dtype) == (
        torch.bfloat16,
        torch.bfloat16,
        torch.float32,
    )
    assert matmul_dtype(random(2)) == torch.float32


def dropped(probability: float, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return dropout(torch.ones(999, 101, requires_grad=True), probability, training=True)


@pytest.mark.parametrize("probability", [0.01, 0.1, 0.5, 0.9])
def test_dropout_zeroes_its_share_and_keeps_the_mean(probability):
    result = dropped(probability).detach()
    assert float((result == 0).float().mean()) == pytest.approx(probability, abs=0.01)
    assert sorted(set(result.unique().tolist())) == pytest.approx([0.0, 1 / (1 - probability)])
    assert float(result.mean()) == pytest.approx(1.0, abs=0.03)


def test_a_dropout_near_one_zeroes_nearly_everything():
    assert float((dropped(0.999999) == 0).float().mean()) > 0.99


def test_dropout_is_a_function_of_the_seed():
    assert torch.equal(dropped(0.3, 1), dropped(0.3, 1)) and not torch.equal(
        dropped(0.3, 1), dropped(0.3, 2)
    )


def test_compiled_dropout_zeroes_the_same_elements(monkeypatch):
    expected = dropped(0.3)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.equal(dropped(0.3), expected)


def test_the_gradient_of_dropped_elements_is_zero():
    x = torch.ones(40, 25, requires_grad=True)
    result = dropout(x, 0.4, training=True)
    result.sum().backward()
    assert torch.equal(x.grad, result.detach()), "ones: the gradient is the mask itself"


@pytest.mark.parametrize(("probability", "training"), [(0.0, True), (0.5, False)])
def test_without_training_or_probability_nothing_is_dropped(probability, training):
    x = random(4, 4).requires_grad_()
    assert torch.equal(dropout(x, probability, training), x)
