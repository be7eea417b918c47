"""Weights in 8 bits: a quarter of the memory to read for each token of a reply, at nearly the same answers.

Each row of a matrix is kept as whole numbers from -127 to 127 and one scale (absmax quantisation of the
weights alone, by row: Dettmers et al. 2022, section 2). Norms, biases and the embeddings that are read stay as they are.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simplellm.model.transformer import Linear, SimpleLLM

LARGEST_INT8 = 127


class Int8Linear(nn.Module):
    """x W^T + b with W (out, in) as int8 times a scale for each row; see `product` for one vector at a time."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        # bfloat16, as the product below takes it: rounded before the weights are, so that both use the same scale
        scale = (
            (weight.abs().amax(1) / LARGEST_INT8)
            .clamp_min(torch.finfo(torch.bfloat16).tiny)
            .bfloat16()
        )
        rows = (
            (weight / scale.float()[:, None])
            .round_()
            .clamp_(-LARGEST_INT8, LARGEST_INT8)
            .to(torch.int8)
        )
        self.register_buffer("weight", rows)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)
        self.out_features, self.in_features = weight.shape

    def forward(self, x: Tensor) -> Tensor:
        weight, scale = self.get_buffer("weight"), self.get_buffer("scale")
        return F.linear(
            x, weight.to(x.dtype) * scale.to(x.dtype)[:, None], cast("Tensor | None", self.bias)
        )

    def product(self, x: Tensor) -> Tensor:
        """`forward` of one vector (in,) without the bias: (out,) in bfloat16, which is read four times as fast."""
        return torch._weight_int8pack_mm(
            x.bfloat16()[None], self.get_buffer("weight"), self.get_buffer("scale")
        )[0]


@torch.no_grad()
def quantize(model: SimpleLLM) -> SimpleLLM:
    """Replace, in place, every matrix of the blocks and the output table; returns the model, good for answers only.

    The rows of the output table are centred first: all logits move by the same number, which no probability
    sees, and where they were large (GPT-2's are near -100) bfloat16 keeps more of their differences.
    """
    table = (model.token_embedding if model.config.tie_embeddings else model.head).weight
    model.add_module("head", Int8Linear(table - table.mean(0)))
    for module in list(model.blocks.modules()):
        for name, child in module.named_children():
            if isinstance(child, Linear):
                setattr(module, name, Int8Linear(child.weight, child.bias))
    return model.eval()


def is_quantized(model: SimpleLLM) -> bool:
    return any(isinstance(module, Int8Linear) for module in model.modules())
