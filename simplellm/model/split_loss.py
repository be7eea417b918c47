"""The loss of a frozen output table, computed in parts: the logits of one part exist at a time.

For a large vocabulary the logits of a batch, their softmax and their gradient take more memory than
anything else in the step: 49,152 numbers for each token of SmolLM2. A table without a gradient
needs them once only. The gradient of the residual stream is computed in the forward pass, part by
part, as in Liger (Hsu et al. 2024) and in cut cross-entropy (Wijmans et al. 2024).

Shapes: P passes (2 with R-Drop, else 1), N targets, n of them in a part, C n_embd, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from simplellm.model.kernels import Context, matmul_dtype

# Logits of a part: 170 rows of 49,152 (33 MB in float32).
PART_LOGITS = 1 << 23
LossOfPart = Callable[[Tensor, slice], Tensor]


class FrozenTable(NamedTuple):
    """weight: (V, C), without a gradient. new_rows: trained (n, C); its rows `new_ids` (n)."""

    weight: Tensor
    new_ids: Tensor | None = None
    new_rows: Tensor | None = None


def split_loss(hidden: Tensor, table: FrozenTable, loss_of: LossOfPart) -> Tensor:
    """The sum of `loss_of(logits, part)` over parts of the targets, and its gradients.

    hidden: (P, N, C). loss_of: what the targets `part` add to the loss, for their logits (P n, V),
    those of one pass after the other.
    """
    weight = table.weight.to(matmul_dtype(hidden))
    loss: Tensor = _SplitLoss.apply(hidden, table.new_rows, weight, table.new_ids, loss_of)
    return loss


class _SplitLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context,
        hidden: Tensor,
        new_rows: Tensor | None,
        weight: Tensor,
        new_ids: Tensor | None,
        loss_of: LossOfPart,
    ) -> Tensor:
        hidden = hidden.to(weight.dtype)
        P, N, C = hidden.shape
        grad_hidden = torch.empty_like(hidden)
        grad_rows = None if new_rows is None else torch.zeros_like(new_rows)
        total = torch.zeros((), device=hidden.device)
        size = max(PART_LOGITS // (P * len(weight)), 1)
        for start in range(0, N, size):
            part = slice(start, min(start + size, N))
            rows = hidden[:, part].reshape(-1, C)  # (P n, C)
            loss, grad = _gradient_of_logits(rows @ weight.t(), part, loss_of)
            grad_hidden[:, part] = (grad @ weight).view(P, -1, C)
            if grad_rows is not None:
                grad_rows += grad[:, new_ids].t() @ rows
            total += loss
        ctx.save_for_backward(grad_hidden, grad_rows)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_rows = ctx.saved_tensors
        of_rows = None if grad_rows is None else grad_rows * grad
        return grad_hidden * grad.to(grad_hidden.dtype), of_rows, None, None, None


def _gradient_of_logits(logits: Tensor, part: slice, loss_of: LossOfPart) -> tuple[Tensor, Tensor]:
    """The loss of a part, and its gradient for the logits (P n, V)."""
    logits.requires_grad_()
    with torch.enable_grad():
        loss = loss_of(logits, part)
    (grad,) = torch.autograd.grad(loss, logits)
    return loss.detach(), grad
