"""The training loss: cross entropy, optionally with R-Drop, with CPU gradients by hand.

The gradient is computed in the forward pass, where the softmax is at hand, and stored in the
logits' number format. Times: see kernels.py.

Shapes: N tokens, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from simplellm.model.kernels import Context, prefers_torch

MIN_WEIGHT = 1e-6  # of a batch: the loss of one without weights is 0
MIN_PROBABILITY = 1e-37  # a loss is at most 85 nats; its gradient is exact nevertheless


class LossTerms(NamedTuple):
    """What a batch is scored by: targets (N), weights (N) or None for 1 each, and the options."""

    targets: Tensor
    weights: Tensor | None
    label_smoothing: float
    r_drop: float

    def of_all(self, logits: Tensor) -> Tensor:
        """The loss in nats per token, for logits (N, V), with `r_drop` (2 N, V)."""
        targets, weights, smoothing, r_drop = self
        if weights is not None:
            return weighted_cross_entropy(logits, targets, weights, smoothing, r_drop)
        if r_drop:
            return r_drop_cross_entropy(logits, targets, smoothing, r_drop)
        return cross_entropy(logits, targets, smoothing)

    def of_part(self, logits: Tensor, part: slice) -> Tensor:
        """What the targets `part` (n) add to `of_all`; logits (n, V), with r_drop (2 n, V)."""
        targets, weights = self.targets[part], self.weights
        if weights is None:
            share = len(targets) / len(self.targets)
            return self._replace(targets=targets).of_all(logits) * share
        weight = weights[part].sum() / weights.sum().clamp_min(MIN_WEIGHT)
        return self._replace(targets=targets, weights=weights[part]).of_all(logits) * weight


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean of -log softmax(logits)[target], nats in float32; logits (N, V), targets (N).

    Torch's operator takes as long (2% of a step less to 0% more). This one stays because sums are
    rounded in another order there: the weights of a run would change.
    """
    if prefers_torch(logits):
        return F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)
    return _CrossEntropy.apply(logits, targets, label_smoothing)


class _CrossEntropy(torch.autograd.Function):
    """The gradient is (softmax - target) / N, where smoothed targets are distributions."""

    @staticmethod
    def forward(ctx: Context, logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        N, V = logits.shape
        column = targets.unsqueeze(1)  # (N, 1)
        probabilities = torch.softmax(logits, dim=-1, dtype=torch.float32)  # (N, V)
        losses = -probabilities.gather(1, column).clamp_min_(MIN_PROBABILITY).log_()  # (N, 1)
        loss = losses.mean()
        if smoothing:
            log_sum = losses + logits.gather(1, column)  # (N, 1): log of the sum of exp(logits)
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


def r_drop_cross_entropy(
    logits: Tensor, targets: Tensor, label_smoothing: float, weight: float
) -> Tensor:
    """Cross entropy of two passes with different dropout, plus `weight` times their divergence.

    `logits` (2 N, V) are those of the first pass, then of the second; `targets` (N). The divergence
    is the mean of both Kullback-Leibler divergences, in nats per token (R-Drop, Liang et al. 2021).
    Torch's operators take 5% of a step more in float32, 10% more in bf16.
    """
    if prefers_torch(logits):
        p, q = (half.float().log_softmax(-1) for half in logits.chunk(2))
        divergence = ((p.exp() - q.exp()) * (p - q)).sum(-1).mean() / 2
        both = F.cross_entropy(logits.float(), targets.repeat(2), label_smoothing=label_smoothing)
        return both + weight * divergence
    return _RDropCrossEntropy.apply(logits, targets.repeat(2), label_smoothing, weight)


class _RDropCrossEntropy(torch.autograd.Function):
    """With r = log p - log q, the divergences' gradient for p is p (r - KL(p, q)) + p - q."""

    @staticmethod
    def forward(
        ctx: Context, logits: Tensor, targets: Tensor, smoothing: float, weight: float
    ) -> Tensor:
        N = logits.shape[0] // 2
        V = logits.shape[1]
        column = targets.unsqueeze(1)  # (2 N, 1)
        share = weight / (2 * N)
        log_p = torch.log_softmax(logits, dim=-1, dtype=torch.float32)  # (2 N, V)
        loss = -(1 - smoothing) * log_p.gather(1, column).mean() - smoothing * log_p.mean()
        ratio = log_p[:N] - log_p[N:]
        probabilities = log_p.exp_()
        p, q = probabilities.chunk(2)
        kl_pq = (p * ratio).sum(1, keepdim=True)  # (N, 1)
        kl_qp = (q * ratio).sum(1, keepdim=True).neg_()  # (N, 1)
        factor = share + 0.5 / N  # 0.5 / N: of the cross entropy
        grad_p = torch.addcmul(q * -share, p, (ratio - kl_pq).mul_(share).add_(factor))
        grad_q = torch.addcmul(p * -share, q, ratio.neg_().sub_(kl_qp).mul_(share).add_(factor))
        grad = torch.cat([grad_p, grad_q], out=probabilities).sub_(smoothing / V / (2 * N))
        grad.scatter_add_(1, column, torch.full((2 * N, 1), (smoothing - 1) / (2 * N)))
        ctx.save_for_backward(grad.to(logits.dtype))
        return loss + share * (kl_pq + kl_qp).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (grad_logits,) = ctx.saved_tensors
        return grad_logits.mul_(grad.to(grad_logits.dtype)), None, None, None


def weighted_cross_entropy(
    logits: Tensor, targets: Tensor, weights: Tensor, label_smoothing: float, r_drop: float
) -> Tensor:
    """sum(weights * loss of each target) / sum(weights), nats in float32; 0 if all weights are 0.

    `logits` are (N, V), with `r_drop` (2 N, V) as in `r_drop_cross_entropy`; `targets`, `weights`
    (N). Plain torch: conversations are packed loosely, so a hand-written gradient saves little.
    """
    logits = logits.float()
    passes = 2 if r_drop else 1
    repeated = targets.repeat(passes)
    losses = F.cross_entropy(
        logits, repeated, reduction="none", label_smoothing=label_smoothing
    ).view(passes, -1)
    losses = losses.mean(0)  # (N)
    if r_drop:
        p, q = (half.log_softmax(-1) for half in logits.chunk(2))
        losses = losses + r_drop * ((p.exp() - q.exp()) * (p - q)).sum(-1) / 2
    return (losses * weights).sum() / weights.sum().clamp_min(MIN_WEIGHT)
