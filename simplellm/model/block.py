"""The transformer block: attention, then a feed-forward layer, each added to the residual stream.

Shapes: B batch, T tokens, C n_embd.
"""

from __future__ import annotations

from torch import Tensor, nn

from simplellm.config.model import ModelConfig
from simplellm.model.attention import MultiHeadAttention, Rope
from simplellm.model.cache import KVCache
from simplellm.model.feed_forward import MLP, GatedMLP
from simplellm.model.kernels import dropout

MAX_EMBEDDING_STD = 0.05  # measured: docs/recipe.md
MAX_SELF_LOGIT = 5.0  # logit that a tied table gives the token just read, before training (guess)


class TransformerBlock(nn.Module):
    """A pre-norm block (Xiong et al. 2020): each layer reads a normalized copy of the stream."""

    def __init__(
        self,
        attention_norm: nn.Module,
        attention: MultiHeadAttention,
        feed_forward_norm: nn.Module,
        feed_forward: MLP | GatedMLP,
        dropout: float,
    ) -> None:
        super().__init__()
        self.attention_norm = attention_norm
        self.attention = attention
        self.feed_forward_norm = feed_forward_norm
        self.feed_forward = feed_forward
        self.dropout = dropout

    def forward(
        self,
        x: Tensor,
        rope: Rope | None,
        cache: KVCache | None,
        visible: Tensor | None = None,
    ) -> Tensor:
        """(B, T, C) -> (B, T, C); see `MultiHeadAttention.forward`."""
        x = x + self.drop(self.attention(self.attention_norm(x), rope, cache, visible))
        return x + self.drop(self.feed_forward(self.feed_forward_norm(x)))

    def drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)


def residual_stream_std(config: ModelConfig) -> float:
    """Scale of the residual stream: initial embeddings of `modern`, and Muon's updates."""
    return min(MAX_EMBEDDING_STD, MAX_SELF_LOGIT / config.n_embd)
