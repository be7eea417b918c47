"""Causal multi-head self-attention (Vaswani et al. 2017), with options for architectures.

Shapes: B batch, T tokens, S tokens including cached ones, C n_embd, H heads, G key/value heads,
D head size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simplellm.config.model import ModelConfig
from simplellm.model.cache import KVCache, causal_mask
from simplellm.model.kernels import causal_attention
from simplellm.model.layers import Linear, RMSNorm
from simplellm.model.rope import rotate

Rope = tuple[Tensor, Tensor]  # cos and sin of the tokens' positions, (T, 1, D) or (B, T, 1, D)


def qkv_rows(config: ModelConfig) -> tuple[int, int, int]:
    """Rows of the query, key and value matrices, which are fused in this order."""
    return (
        config.n_head * config.head_size,
        config.kv_heads * config.head_size,
        config.kv_heads * config.head_size,
    )


class MultiHeadAttention(nn.Module):
    """Each of G key/value heads is shared by H / G query heads (Ainslie et al. 2023, "GQA").

    qkv_bias, proj_bias: whether the input and the output matrices have biases.
    qk_norm_eps: epsilon of an RMSNorm of queries and keys, which bounds the attention scores
    (Henry et al. 2020; Qwen3); None is without.
    """

    def __init__(
        self,
        config: ModelConfig,
        layer: int,
        *,
        qkv_bias: bool,
        proj_bias: bool,
        qk_norm_eps: float | None = None,
    ) -> None:
        super().__init__()
        self.layer = layer
        self.sizes = (config.n_head, config.kv_heads, config.head_size)  # H, G, D
        rows = qkv_rows(config)
        self.qkv = Linear(config.n_embd, rows, bias=qkv_bias)
        self.proj = Linear(rows[0], [config.n_embd], bias=proj_bias, is_residual=True)
        self.q_norm: RMSNorm | None = None
        self.k_norm: RMSNorm | None = None
        if qk_norm_eps is not None:
            self.q_norm = RMSNorm(config.head_size, qk_norm_eps, torch.float32)
            self.k_norm = RMSNorm(config.head_size, qk_norm_eps, torch.float32)

    def forward(
        self,
        x: Tensor,
        rope: Rope | None,
        cache: KVCache | None,
        visible: Tensor | None = None,
    ) -> Tensor:
        """(B, T, C) -> (B, T, C). `rope` is None where positions are learned embeddings.

        visible: which tokens each token attends to, (B, 1, T, T) bool; None is all earlier ones.
        """
        B, T, _ = x.shape
        H, _, D = self.sizes
        q, k, v = self.heads(x, rope)
        if cache is None:
            y = causal_attention(q, k, v, visible)
        else:
            y = self.attend_to_cache(q, k, v, cache)
        return self.proj(y.transpose(1, 2).reshape(B, T, H * D))  # (B, T, C)

    def heads(self, x: Tensor, rope: Rope | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, T, D), keys and values (B, G, T, D) of x (B, T, C)."""
        B, T, _ = x.shape
        H, G, D = self.sizes
        q, k, v = self.qkv(x).view(B, T, H + 2 * G, D).split([H, G, G], dim=2)  # (B, T, H or G, D)
        if self.q_norm is not None and self.k_norm is not None:
            q = self.q_norm(q)
            k = self.k_norm(k)
        if rope is not None:
            q = rotate(q, *rope)
            k = rotate(k, *rope)
        q, k = q.to(v.dtype), k.to(v.dtype)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def attend_to_cache(self, q: Tensor, k: Tensor, v: Tensor, cache: KVCache) -> Tensor:
        """Attention of T new tokens to those in `cache` and to themselves: (B, H, T, D)."""
        past = cache.length
        T = q.shape[2]
        k, v = cache.append(self.layer, k, v)  # (B, G, S, D)
        mask = causal_mask(T, past, q.device) if past and T > 1 else None
        is_causal = mask is None and T > 1
        is_grouped = k.shape[1] != q.shape[1]
        return F.scaled_dot_product_attention(
            q, k, v, mask, is_causal=is_causal, enable_gqa=is_grouped
        )
