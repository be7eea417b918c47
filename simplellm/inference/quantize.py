"""Weights in 8 bits, for generation: a quarter of the memory to read per token.

Each row of a matrix is stored as integers from -127 to 127 and one scale (absmax quantization of
the weights by row; Dettmers et al. 2022, "LLM.int8()", section 2). Norms, biases and input
embeddings stay as they are. The effect on perplexity is in docs/performance.md.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simplellm.model.layers import Linear
from simplellm.model.transformer import SimpleLLM

MAX_INT8 = 127


class Int8Linear(nn.Module):
    """x W^T + b, where W (out, in) is int8 times a scale per row; `product` is for one vector."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        # The scale is rounded to bfloat16, which `product` takes, before it divides the weights, so
        # that both directions use the same scale.
        smallest = torch.finfo(torch.bfloat16).tiny
        scale = (weight.abs().amax(1) / MAX_INT8).clamp_min(smallest).bfloat16()  # (out)
        rows = (weight / scale.float()[:, None]).round_().clamp_(-MAX_INT8, MAX_INT8)
        self.register_buffer("weight", rows.to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)
        self.out_features, self.in_features = weight.shape

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), in the number format of `x`."""
        scale = self.get_buffer("scale").to(x.dtype)[:, None]  # (out, 1)
        weight = self.get_buffer("weight").to(x.dtype) * scale
        return F.linear(x, weight, cast("Tensor | None", self.bias))

    def product(self, x: Tensor) -> Tensor:
        """W x for one vector (in): (out) in bfloat16, without the bias."""
        weight = self.get_buffer("weight")
        return torch._weight_int8pack_mm(x.bfloat16()[None], weight, self.get_buffer("scale"))[0]


@torch.no_grad()
def quantize(model: SimpleLLM) -> SimpleLLM:
    """Replace all matrices of the blocks and the output table, in place; returns the model.

    It can generate and be evaluated, but not be trained or saved. The output table is first
    centred: its mean row is subtracted, which adds the same number to all logits and changes no
    probability. Where logits are large (GPT-2's are near -100), bfloat16 keeps more of their
    differences.
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
