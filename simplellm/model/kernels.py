"""Operations of the transformer with hand-written gradients for the CPU; losses are in losses.py.

At the model sizes that a CPU trains, elementwise passes over memory take as long as matrix
products. Each operation here computes its textbook formula with fewer passes, stores only what its
gradient needs, and gives matrix products the number format that they run in. On other devices, and
where no gradient is needed, torch's own operators are used.

The time that each saves is the measured CPU time of a training step with torch's own operator
instead, relative to the step as it is (modern 4x128, one thread; blocks of 128 tokens with R-Drop,
and blocks of 512 without).

Shapes: B batch, T tokens, H heads, G key/value heads, D head size, C width, I inner size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

QUERY_BLOCK = 128  # tokens
MAX_DENSE_TOKENS = 1024  # beyond, storing T x T / 2 attention weights takes too much memory
Context = Any  # of an autograd function: torch gives it no public type


def matmul_dtype(x: Tensor) -> torch.dtype:
    """The number format of matrix products: autocast's where enabled, otherwise that of `x`."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def prefers_torch(x: Tensor) -> bool:
    """Whether to use torch's own operator: not on a CPU, without gradients, or when compiling."""
    return x.device.type != "cpu" or not torch.is_grad_enabled() or torch.compiler.is_compiling()


# ---------------------------------------------------------------- RMSNorm


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype | None = None) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension (Zhang and Sennrich 2019).

    The result has the format `dtype`, by default that of matrix products. Torch's operator takes 3
    to 6% of a step more in float32, 7% more in bf16.
    """
    dtype = dtype or matmul_dtype(x)
    if prefers_torch(x):
        return F.rms_norm(x.float(), weight.shape, weight.float(), eps).to(dtype)
    return _RMSNorm.apply(x, weight, eps, dtype)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        x = x.float()
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()  # (..., 1)
        inverse = squares.div_(x.shape[-1]).add_(eps).rsqrt_()
        normed = x * inverse
        ctx.save_for_backward(normed, inverse, weight)
        return (normed * weight).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        normed, inverse, weight = ctx.saved_tensors
        grad = grad.float()
        grad_normed = grad * normed
        grad_weight = grad_normed.flatten(0, -2).sum(0)
        mean = (grad_normed @ weight).div_(weight.numel()).unsqueeze(-1)  # (..., 1)
        grad_x = torch.addcmul(grad * weight, normed, mean, value=-1).mul_(inverse)
        return grad_x, grad_weight, None, None


# ---------------------------------------------------------------- attention


def causal_attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(D)) v, where a token attends to itself and earlier ones (B, H, T, D).

    k and v are (B, G, T, D); each of their heads is shared by H / G heads of q. visible: which
    tokens (columns) each token (row) attends to instead, (B, 1, T, T) bool; never a later one.
    Torch's operator takes as long in float32 (2% of a step less to 3% more), and 13 to 22% of a
    step more in bf16.
    """
    is_grouped = k.shape[1] != q.shape[1]
    if q.device.type != "cpu" or q.shape[2] > MAX_DENSE_TOKENS:
        is_causal = visible is None and q.shape[2] > 1
        return F.scaled_dot_product_attention(
            q, k, v, visible, is_causal=is_causal, enable_gqa=is_grouped
        )
    if is_grouped:
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    if torch.compiler.is_compiling():
        return _attention_to_compile(q, k, v, visible)
    return _CausalAttention.apply(q.contiguous(), k.contiguous(), v.contiguous(), visible)


def _attention_to_compile(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> Tensor:
    """The formula itself: a compiler fuses the operations between the matrix products.

    Torch's own operator takes 9 times as long here, because it multiplies in many small oneDNN
    products (see `device.fast_float32`).
    """
    queries, keys, values = (x.split(QUERY_BLOCK, dim=2) for x in (q, k, v))
    results = []
    for i, (start, end) in enumerate(_query_blocks(q.shape[2])):
        k = torch.cat(keys[: i + 1], dim=2)  # (B, H, end, D)
        v = torch.cat(values[: i + 1], dim=2)  # (B, H, end, D)
        if visible is None:
            rows = torch.arange(start, end, device=q.device)[:, None]
            is_visible = rows >= torch.arange(end, device=q.device)  # (end - start, end)
        else:
            is_visible = visible[:, :, start:end, :end]  # (B, 1, end - start, end)
        scores = (queries[i] @ k.mT).float() * q.shape[-1] ** -0.5
        weights = torch.softmax(torch.where(is_visible, scores, float("-inf")), dim=-1)
        results.append(weights.to(v.dtype) @ v)
    return torch.cat(results, dim=2)


class _CausalAttention(torch.autograd.Function):
    """Attention by blocks of queries, each against the keys up to its end: later keys are skipped.

    The attention weights are stored for the gradient: at these lengths that is faster than
    computing them again.
    """

    @staticmethod
    def forward(ctx: Context, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
        B, H, T, D = q.shape
        q, k, v = (x.view(B * H, T, D) for x in (q, k, v))
        mask = _attention_mask(visible, T, q.dtype)
        result = torch.empty_like(q)
        blocks = []
        for start, end in _query_blocks(T):
            hidden = mask[..., start:end, :end].expand(B, H, end - start, end).flatten(0, 1)
            scores = torch.baddbmm(hidden, q[:, start:end], k[:, :end].mT, alpha=D**-0.5)
            weights = torch.softmax(scores, dim=-1)  # (B H, end - start, end)
            torch.bmm(weights, v[:, :end], out=result[:, start:end])
            if any(ctx.needs_input_grad):
                blocks.append(weights)
        ctx.save_for_backward(q, k, v, *blocks)
        return result.view(B, H, T, D)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, *blocks = ctx.saved_tensors
        shape = grad.shape
        scale = q.shape[-1] ** -0.5
        T = q.shape[1]
        grad = grad.contiguous().view(q.shape)  # (B H, T, D)
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for weights, (start, end) in zip(reversed(blocks), reversed(_query_blocks(T)), strict=True):
            grad_weights = torch.bmm(grad[:, start:end], v[:, :end].mT)
            grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, q.dtype)
            grad_scores.mul_(scale)
            torch.bmm(grad_scores, k[:, :end], out=grad_q[:, start:end])
            # The last block of queries, which comes first, attends to all keys: it sets their
            # gradient, and the other blocks add to it.
            beta = 0 if end == T else 1
            grad_k[:, :end].baddbmm_(grad_scores.mT, q[:, start:end], beta=beta)
            grad_v[:, :end].baddbmm_(weights.mT, grad[:, start:end], beta=beta)
        return grad_q.view(shape), grad_k.view(shape), grad_v.view(shape), None


def _attention_mask(visible: Tensor | None, T: int, dtype: torch.dtype) -> Tensor:
    """What is added to the scores: (T, T), or (B, 1, T, T) for `visible`."""
    if visible is None:
        return torch.full((T, T), float("-inf"), dtype=dtype).triu_(1)
    return torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, float("-inf"))


def _query_blocks(T: int) -> list[tuple[int, int]]:
    """Start and end of each block of queries."""
    return [(start, min(start + QUERY_BLOCK, T)) for start in range(0, T, QUERY_BLOCK)]


# ---------------------------------------------------------------- SwiGLU


def swiglu(x: Tensor) -> Tensor:
    """silu(gate) * up for x (..., 2 I), which holds gate and up: (..., I) (Shazeer 2020).

    The bits are those of torch's operators, which keep I more numbers of each token in memory.
    """
    if prefers_torch(x):
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up
    result: Tensor = _SwiGLU.apply(x)
    return result


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate, up = x.chunk(2, dim=-1)
        grad_x = torch.empty_like(x)
        grad_gate, grad_up = grad_x.chunk(2, dim=-1)
        torch.ops.aten.silu_backward(grad * up, gate, grad_input=grad_gate)
        torch.mul(grad, F.silu(gate), out=grad_up)
        return grad_x


# ---------------------------------------------------------------- dropout


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """x with a random share `probability` set to zero and the remainder scaled up.

    Random numbers come from torch's default generator. Torch's operator takes 5 to 11% of a step
    more in float32, 8 to 15% more in bf16.
    """
    if not training or probability == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, probability)
    draw = _opaque_mask if torch.compiler.is_compiling() else _mask
    return x * draw(x.detach(), probability)


def _mask(x: Tensor, probability: float) -> Tensor:
    """0 or 1 / (1 - p) per element, from 16 random bits: a third of the time of a random float."""
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[: x.numel()].view(x.shape)
    threshold = round(probability * 2**16) - 2**15
    threshold = min(threshold, 2**15 - 1)  # the highest 16-bit number is always kept
    kept = bits.ge_(threshold)  # in place, because a tensor of bool takes six times as long
    return kept.to(x.dtype).mul_(1 / (1 - probability))


# A compiler must not look into the mask: it would draw the numbers with a slower generator of its
# own. With the same numbers, compiled and eager steps drop the same elements.
_opaque_mask = torch.library.custom_op("simplellm::dropout_mask", _mask, mutates_args=())
_opaque_mask.register_fake(lambda x, probability: torch.empty_like(x))
