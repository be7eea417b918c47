"""The few operations a transformer spends its time on besides matrix products, with fewer passes over memory.

At the sizes a CPU trains, elementwise passes cost as much as the matrix products. Each operation
here computes what its textbook formula says, keeps just what its gradient needs, and hands matrix
products the number format they run in. On other devices the fused operators of torch are used instead.

Shapes: B batch, T tokens, H heads, D head size, C width, I inner size, V vocabulary, N = B * T.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

QUERY_BLOCK = 128  # tokens
LONGEST_DENSE_ATTENTION = (
    1024  # tokens; beyond, keeping the T x T / 2 weights takes too much memory
)
SMALLEST_PROBABILITY = 1e-37  # a loss is at most 85 nats; its gradient is exact all the same
Context = Any


def matmul_dtype(x: Tensor) -> torch.dtype:
    """The number format matrix products run in here: autocast's, or that of `x`."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _is_plain(x: Tensor) -> bool:
    """Whether torch's own operator is the better choice: elsewhere than on a CPU, and where no gradient is needed."""
    return x.device.type != "cpu" or not torch.is_grad_enabled() or torch.compiler.is_compiling()


# ---------------------------------------------------------------- RMSNorm


def rms_norm(x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype | None = None) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last dimension (Zhang and Sennrich 2019).

    The result has the format `dtype`, by default the one matrix products run in.
    """
    dtype = dtype or matmul_dtype(x)
    if _is_plain(x):
        return F.rms_norm(x.float(), weight.shape, weight.float(), epsilon).to(dtype)
    return _RMSNorm.apply(x, weight, epsilon, dtype)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context, x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype
    ) -> Tensor:
        x = x.float()
        inverse = (
            torch.linalg.vector_norm(x, dim=-1, keepdim=True)
            .square_()
            .div_(x.shape[-1])
            .add_(epsilon)
            .rsqrt_()
        )
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
        mean = (grad_normed @ weight).div_(weight.numel()).unsqueeze(-1)
        return (
            torch.addcmul(grad * weight, normed, mean, value=-1).mul_(inverse),
            grad_weight,
            None,
            None,
        )


# ---------------------------------------------------------------- SwiGLU


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of the two halves (Shazeer 2020): (..., 2 I) -> (..., I)."""
    if _is_plain(gate_up):
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up
    return _SwiGLU.apply(gate_up)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        activated = F.silu(gate)
        ctx.save_for_backward(gate_up, activated)
        return activated * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> Tensor:
        gate_up, activated = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        result = torch.empty_like(gate_up)
        grad_gate, grad_up = result.chunk(2, dim=-1)
        torch.mul(grad, activated, out=grad_up)
        grad_gate.copy_(torch.ops.aten.silu_backward(grad * up, gate))
        return result


# ---------------------------------------------------------------- attention


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v, each token seeing itself and those before it: (B, H, T, D) -> (B, H, T, D).

    k and v may have fewer heads than q, each shared by a group of them.
    """
    if q.device.type != "cpu" or q.shape[2] > LONGEST_DENSE_ATTENTION:
        return F.scaled_dot_product_attention(
            q, k, v, is_causal=q.shape[2] > 1, enable_gqa=k.shape[1] != q.shape[1]
        )
    if k.shape[1] != q.shape[1]:
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    if torch.compiler.is_compiling():
        return _attention_to_compile(q, k, v)
    return _CausalAttention.apply(q.contiguous(), k.contiguous(), v.contiguous())


def _attention_to_compile(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The formula as it stands: a compiler fuses what lies between the products.

    torch's own operator would multiply in many small oneDNN products here, see `device.fast_float32`: 9 times as slow.
    """
    queries, keys, values = (x.split(QUERY_BLOCK, dim=2) for x in (q, k, v))
    results = []
    for i, (start, end) in enumerate(_query_blocks(q.shape[2])):
        k, v = torch.cat(keys[: i + 1], dim=2), torch.cat(values[: i + 1], dim=2)
        seen = torch.arange(start, end, device=q.device)[:, None] >= torch.arange(
            end, device=q.device
        )
        scores = torch.where(seen, (queries[i] @ k.mT).float() * q.shape[-1] ** -0.5, float("-inf"))
        results.append(torch.softmax(scores, dim=-1).to(v.dtype) @ v)
    return torch.cat(results, dim=2)


class _CausalAttention(torch.autograd.Function):
    """The weights are kept: at these lengths that is cheaper than making them again, and bf16 runs at full speed.

    A block of queries at a time, against the keys up to its end: what lies beyond is never computed.
    """

    @staticmethod
    def forward(ctx: Context, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        B, H, T, D = q.shape
        q, k, v = (x.view(B * H, T, D) for x in (q, k, v))
        mask = torch.full((T, T), float("-inf"), dtype=q.dtype).triu_(1)
        result, blocks = torch.empty_like(q), []
        for start, end in _query_blocks(T):
            hidden = mask[start:end, :end].expand(B * H, end - start, end)
            scores = torch.baddbmm(hidden, q[:, start:end], k[:, :end].mT, alpha=D**-0.5)
            weights = torch.softmax(scores, dim=-1)
            torch.bmm(weights, v[:, :end], out=result[:, start:end])
            if any(ctx.needs_input_grad):
                blocks.append(weights)
        ctx.save_for_backward(q, k, v, *blocks)
        return result.view(B, H, T, D)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, *blocks = ctx.saved_tensors
        shape, scale = grad.shape, q.shape[-1] ** -0.5
        grad = grad.contiguous().view(q.shape)
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for weights, (start, end) in zip(
            reversed(blocks), reversed(_query_blocks(q.shape[1])), strict=True
        ):
            grad_weights = torch.bmm(grad[:, start:end], v[:, :end].mT)
            grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, q.dtype).mul_(
                scale
            )
            torch.bmm(grad_scores, k[:, :end], out=grad_q[:, start:end])
            beta = (
                0 if end == q.shape[1] else 1
            )  # the last queries see all keys: to their share the others add
            grad_k[:, :end].baddbmm_(grad_scores.mT, q[:, start:end], beta=beta)
            grad_v[:, :end].baddbmm_(weights.mT, grad[:, start:end], beta=beta)
        return grad_q.view(shape), grad_k.view(shape), grad_v.view(shape)


def _query_blocks(T: int) -> list[tuple[int, int]]:
    return [(start, min(start + QUERY_BLOCK, T)) for start in range(0, T, QUERY_BLOCK)]


# ---------------------------------------------------------------- cross entropy


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean of -log softmax(logits)[target] in nats, float32; logits (N, V) of any format, targets (N)."""
    if _is_plain(logits):
        return F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)
    return _CrossEntropy.apply(logits, targets, label_smoothing)


class _CrossEntropy(torch.autograd.Function):
    """The gradient, softmax minus target, is made in the forward pass, where the softmax is at hand."""

    @staticmethod
    def forward(ctx: Context, logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        N, V = logits.shape
        column = targets.unsqueeze(1)
        probabilities = torch.softmax(logits, dim=-1, dtype=torch.float32)
        losses = -probabilities.gather(1, column).clamp_min_(SMALLEST_PROBABILITY).log_()  # (N, 1)
        loss = losses.mean()
        if smoothing:
            log_sum = losses + logits.gather(1, column)  # log of the sum of exp
            loss = (1 - smoothing) * loss + smoothing * (log_sum.mean() - logits.float().mean())
            probabilities.sub_(smoothing / V)
        probabilities.scatter_add_(1, column, torch.full((N, 1), smoothing - 1.0))
        ctx.save_for_backward(probabilities.div_(N).to(logits.dtype))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, None, None]:
        (grad_logits,) = ctx.saved_tensors
        return grad_logits.mul_(grad.to(grad_logits.dtype)), None, None


# ---------------------------------------------------------------- R-Drop


def consistent_cross_entropy(
    logits: Tensor, targets: Tensor, label_smoothing: float, weight: float
) -> Tensor:
    """Cross entropy of two passes with different dropout, and `weight` times how much they disagree.

    `logits` (2 N, V) are those of the one pass, then of the other; `targets` (N). They disagree by the mean of both
    Kullback-Leibler divergences, in nats per token (R-Drop, Liang et al. 2021).
    """
    if _is_plain(logits):
        p, q = (half.float().log_softmax(-1) for half in logits.chunk(2))
        disagreement = ((p.exp() - q.exp()) * (p - q)).sum(-1).mean() / 2
        return (
            F.cross_entropy(logits.float(), targets.repeat(2), label_smoothing=label_smoothing)
            + weight * disagreement
        )
    return _ConsistentCrossEntropy.apply(logits, targets.repeat(2), label_smoothing, weight)


class _ConsistentCrossEntropy(torch.autograd.Function):
    """As `_CrossEntropy`. With r = log p - log q, the gradient of KL(p, q) + KL(q, p) is p (r - KL(p, q)) + p - q for p."""

    @staticmethod
    def forward(
        ctx: Context, logits: Tensor, targets: Tensor, smoothing: float, weight: float
    ) -> Tensor:
        N, V = logits.shape[0] // 2, logits.shape[1]
        column, share = targets.unsqueeze(1), weight / (2 * N)
        log_p = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
        loss = -(1 - smoothing) * log_p.gather(1, column).mean() - smoothing * log_p.mean()
        ratio = log_p[:N] - log_p[N:]
        p, q = (probabilities := log_p.exp_()).chunk(2)
        forward, backward = (
            (p * ratio).sum(1, keepdim=True),
            (q * ratio).sum(1, keepdim=True).neg_(),
        )  # KL, (N, 1)
        grad_p = torch.addcmul(q * -share, p, (ratio - forward).mul_(share).add_(share + 0.5 / N))
        grad_q = torch.addcmul(
            p * -share, q, ratio.neg_().sub_(backward).mul_(share).add_(share + 0.5 / N)
        )
        grad = torch.cat([grad_p, grad_q], out=probabilities).sub_(smoothing / V / (2 * N))
        grad.scatter_add_(1, column, torch.full((2 * N, 1), (smoothing - 1) / (2 * N)))
        ctx.save_for_backward(grad.to(logits.dtype))
        return loss + share * (forward + backward).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (grad_logits,) = ctx.saved_tensors
        return grad_logits.mul_(grad.to(grad_logits.dtype)), None, None, None


# ---------------------------------------------------------------- dropout


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """x with a random share `probability` set to zero and the rest scaled up; randomness is torch's default generator."""
    if not training or probability == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, probability)
    draw = _opaque_mask if torch.compiler.is_compiling() else _mask
    return x * draw(x.detach(), probability)


def _mask(x: Tensor, probability: float) -> Tensor:
    """0 or 1 / (1 - p) for each element, from random 16-bit integers: a third of the time of a float for each."""
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[: x.numel()].view(x.shape)
    threshold = min(
        round(probability * 2**16) - 2**15, 2**15 - 1
    )  # the highest 16-bit number is always kept
    return (
        bits.ge_(threshold).to(x.dtype).mul_(1 / (1 - probability))
    )  # in place: by way of bool it takes six times as long


# What a compiler is not to look into: it would draw the numbers by a slower generator of its own. So steps compiled
# and not drop the same.
_opaque_mask = torch.library.custom_op("simplellm::dropout_mask", _mask, mutates_args=())
_opaque_mask.register_fake(lambda x, probability: torch.empty_like(x))
