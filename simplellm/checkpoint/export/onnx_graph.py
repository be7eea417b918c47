"""The model as ONNX computes it, in three parts of plain torch operations.

The KV cache is an argument and a result. All blocks compute the same with other weights, so that
one of them is exported for all.

Shapes: B batch, T new tokens, P past tokens, C n_embd, H heads, G key/value heads, D head size,
V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simplellm.model.attention import MultiHeadAttention, Rope
from simplellm.model.block import TransformerBlock
from simplellm.model.transformer import SimpleLLM

HIDDEN_SCORE = -1e9  # finite, so that a row without any visible token has no NaN


class FirstPart(nn.Module):
    """What all blocks read."""

    frequencies: Tensor  # (D / 2), radians per position

    def __init__(self, network: SimpleLLM) -> None:
        super().__init__()
        self.token_embedding = network.token_embedding
        self.position_embedding = network.position_embedding
        if network.position_embedding is None:
            frequencies = network.architecture.rope_frequencies(network.config)
            self.register_buffer("frequencies", torch.from_numpy(frequencies))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Embeddings (B, T, C), the mask of the scores, and cos and sin of rotary positions.

        inputs: input_ids (B, T), attention_mask (B, P + T), which is 0 for padding, and
        position_ids (B, T).
        """
        input_ids, attention_mask, position_ids = inputs
        x = self.token_embedding(input_ids)  # (B, T, C)
        mask = attention_scores_mask(attention_mask, input_ids.shape[1])
        if self.position_embedding is not None:
            return x + self.position_embedding(position_ids), mask
        return x, mask, *self._rope(position_ids)

    def _rope(self, positions: Tensor) -> Rope:
        """cos and sin (B, T, 1, D) as `model.rope.rotate` needs them."""
        angles = positions[:, :, None, None].float() * self.frequencies  # (B, T, 1, D / 2)
        cos = angles.cos()
        sin = angles.sin()
        return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


class CachedBlock(nn.Module):
    """A block whose cache is an argument and a result."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        assert isinstance(block, TransformerBlock)
        self.block = block

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, C), and keys and values (B, G, P + T, D).

        inputs: x, past keys and values (B, G, P, D), and all but the first of `FirstPart`.
        """
        x, keys, values, mask, *rope = inputs
        block = self.block
        h = block.attention_norm(x)
        cos_sin = (rope[0], rope[1]) if rope else None
        y, keys, values = attend(block.attention, h, cos_sin, mask, keys, values)
        x = x + y
        return x + block.feed_forward(block.feed_forward_norm(x)), keys, values


class LastPart(nn.Module):
    """What follows the blocks."""

    def __init__(self, network: SimpleLLM) -> None:
        super().__init__()
        self.final_norm = network.final_norm
        is_tied = network.config.tie_embeddings
        self.table = (network.token_embedding if is_tied else network.head).weight  # (V, C)

    def forward(self, *inputs: Tensor) -> Tensor:
        """x (B, T, C) -> logits (B, T, V)."""
        (x,) = inputs
        return F.linear(self.final_norm(x), self.table)


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
