"""The model as ONNX computes it: plain torch operations, the KV cache as inputs and outputs.

Names of inputs and outputs are those of Optimum, so that its users can run the model.

Shapes: B batch, T new tokens, P past tokens, C n_embd, H heads, G key/value heads, D head size,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simplellm.model.attention import MultiHeadAttention, Rope
from simplellm.model.block import TransformerBlock
from simplellm.model.transformer import SimpleLLM

HIDDEN_SCORE = -1e9  # finite, so that a row without any visible token has no NaN
Past = Sequence[Tensor]  # keys and values (B, G, P, D) of each block in turns


class CachedModel(nn.Module):
    """A model whose cache is an argument and a result."""

    frequencies: Tensor  # (D / 2), radians per position

    def __init__(self, network: SimpleLLM) -> None:
        super().__init__()
        self.network = network
        frequencies = network.architecture.rope_frequencies(network.config)
        self.register_buffer("frequencies", torch.from_numpy(frequencies), persistent=False)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, past: Past
    ) -> tuple[Tensor, ...]:
        """Logits (B, T, V), then keys and values (B, G, P + T, D) of each block in turns.

        input_ids and position_ids are (B, T); attention_mask (B, P + T) is 0 for padding.
        """
        network = self.network
        x = network.token_embedding(input_ids)  # (B, T, C)
        rope = None
        if network.position_embedding is None:
            rope = self._rope(position_ids)
        else:
            x = x + network.position_embedding(position_ids)
        mask = attention_scores_mask(attention_mask, input_ids.shape[1])
        present: list[Tensor] = []
        for i, block in enumerate(network.blocks):
            assert isinstance(block, TransformerBlock)
            h = block.attention_norm(x)
            y, keys, values = attend(block.attention, h, rope, mask, past[2 * i], past[2 * i + 1])
            x = x + y
            x = x + block.feed_forward(block.feed_forward_norm(x))
            present += [keys, values]
        return (network.logits(network.final_norm(x)), *present)

    def _rope(self, positions: Tensor) -> Rope:
        """cos and sin (B, T, 1, D) as `model.rope.rotate` needs them."""
        angles = positions[:, :, None, None].float() * self.frequencies  # (B, T, 1, D / 2)
        cos = angles.cos()
        sin = angles.sin()
        return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def attention_scores_mask(attention_mask: Tensor, T: int) -> Tensor:
    """(B, 1, T, P + T), added to the scores: each token sees itself and earlier ones."""
    total = attention_mask.shape[1]
    columns = torch.arange(total, device=attention_mask.device)  # (P + T)
    rows = columns[:T, None] + (total - T)  # (T, 1)
    visible = (columns <= rows) & (attention_mask[:, None, None, :] > 0)  # (B, 1, T, P + T)
    return torch.where(visible, 0.0, HIDDEN_SCORE)


def attend(
    attention: MultiHeadAttention,
    x: Tensor,
    rope: Rope | None,
    mask: Tensor,
    past_keys: Tensor,
    past_values: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention of x (B, T, C) to past and new tokens (B, T, C), and all keys and values."""
    B, T, _ = x.shape
    H, G, D = attention.sizes
    q, k, v = attention.heads(x, rope)
    keys = torch.cat([past_keys, k], dim=2)  # (B, G, P + T, D)
    values = torch.cat([past_values, v], dim=2)
    shared_keys = keys.repeat_interleave(H // G, dim=1)  # (B, H, P + T, D)
    shared_values = values.repeat_interleave(H // G, dim=1)
    y = F.scaled_dot_product_attention(q, shared_keys, shared_values, mask)  # (B, H, T, D)
    return attention.proj(y.transpose(1, 2).reshape(B, T, H * D)), keys, values
