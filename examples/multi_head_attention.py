"""Compute multi-head attention step by step, and compare with the model's own attention.

Teaches: queries, keys and values; heads; the causal mask; softmax; how the heads are joined.
Each step prints its shape. Letters: B batch, T tokens, C width, H heads, G key/value heads, D head
size. The paper: "Attention is all you need" (Vaswani et al. 2017), section 3.2.

    python examples/multi_head_attention.py                          # a tiny new model
    python examples/multi_head_attention.py RUN "The judge sat up."  # a trained run and a sentence
"""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
from tiny_model import open_or_train
from torch import Tensor

SENTENCE = "The judge put on the lamp."
LAYER = 0


def step(name: str, value: Tensor) -> Tensor:
    print(f"  {name:<46} {tuple(value.shape)}")
    return value


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: turn each pair of dimensions by an angle that grows with the position."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([second, first], dim=-1) * sin  # the sign is in sin


@torch.no_grad()
def attention(layer: Any, x: Tensor, rope: tuple[Tensor, Tensor] | None) -> Tensor:
    """The output of an attention layer for x (B, T, C), written out."""
    B, T, _ = x.shape
    H, G, D = layer.sizes
    step("input: one vector per token (B, T, C)", x)
    fused = step("one projection for queries, keys and values", layer.qkv(x))
    q, k, v = fused.view(B, T, H + 2 * G, D).split([H, G, G], dim=2)
    if layer.q_norm is not None:  # architecture modern: QK-norm
        q, k = layer.q_norm(q), layer.k_norm(k)
    if rope is not None:  # architecture modern: rotary positions
        q, k = rotate(q, *rope), rotate(k, *rope)
    q = step("queries, one per head (B, H, T, D)", q.transpose(1, 2))
    k = step("keys (B, G, T, D)", k.transpose(1, 2))
    v = step("values (B, G, T, D)", v.transpose(1, 2))
    k, v = (tensor.repeat_interleave(H // G, dim=1) for tensor in (k, v))  # shared by H / G heads
    scores = step("scores: query times key / sqrt(D) (B, H, T, T)", q @ k.mT / math.sqrt(D))
    future = torch.ones(T, T, dtype=torch.bool).triu(diagonal=1)
    scores = scores.masked_fill(future, -math.inf)  # no token sees the tokens after it
    weights = step("weights: softmax, each row adds up to 1", scores.softmax(dim=-1))
    heads = step("each head: weighted mean of the values", weights @ v)
    joined = step("heads side by side (B, T, H D)", heads.transpose(1, 2).reshape(B, T, H * D))
    return step("output projection (B, T, C)", layer.proj(joined))


def main(arguments: list[str]) -> None:
    model = open_or_train(arguments[0] if arguments else None)
    network = model.network.cpu()
    ids = model.tokenizer.encode(arguments[1] if len(arguments) > 1 else SENTENCE)
    print("tokens:", " ".join(repr(model.tokenizer.decode([token])) for token in ids), "\n")

    seen: list[Any] = []  # what goes into the layer, and what comes out of it
    layer = network.blocks[LAYER].attention
    layer.register_forward_hook(lambda layer, inputs, output: seen.extend((inputs, output)))
    with torch.no_grad():
        network(torch.tensor([ids]))  # (B, T) with B = 1
    inputs, expected = seen

    ours = attention(layer, inputs[0], inputs[1])
    assert torch.allclose(ours, expected, atol=1e-5), "the two results differ"
    difference = (ours - expected).abs().max()
    print(f"\nequal to the model's own attention (largest difference {difference:.1e})")


if __name__ == "__main__":
    main(sys.argv[1:])
