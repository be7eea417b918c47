"""The model: token ids in, logits out. It knows no device, no optimizer and no terminal.

Two architectures from the same parts:
- modern: RMSNorm, rotary positions, QK-norm, SwiGLU, no biases (a Qwen3 on disk)
- gpt2:   LayerNorm, learned positions, GELU, biases (a GPT-2 on disk)

Shapes: B batch, T tokens, S tokens so far (cache included), C n_embd, H heads, G key/value heads,
D head size, I inner size of the feed-forward layer, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simplellm.config.model import ModelConfig
from simplellm.model.kernels import (
    causal_attention,
    consistent_cross_entropy,
    cross_entropy,
    dropout,
    rms_norm,
    swiglu,
)

GPT2_STD = 0.02  # GPT-2 paper
LARGEST_EMBEDDING_STD = 0.05  # measured: docs/recipe.md
LARGEST_SELF_LOGIT = 5.0  # what a tied table gives the token just read, before training; more, and it starts far off (guess)
RESIDUAL_MATRICES = ("proj.weight", "down.weight")  # write to the residual stream
NORM_EPSILON = {"modern": 1e-6, "gpt2": 1e-5}  # Qwen3 and GPT-2 as published
ROPE_BASE = 10_000.0  # RoFormer, 3.4.3


class Linear(nn.Linear):
    """A linear layer whose initial weights are drawn by `SimpleLLM.init_weights` or loaded.

    rows: output rows of each matrix, where several matrices are fused into one weight.
    is_residual: whether the result is added to the residual stream.
    """

    def __init__(
        self, in_features: int, rows: Sequence[int], *, bias: bool, is_residual: bool = False
    ) -> None:
        super().__init__(in_features, sum(rows), bias=bias)
        self.rows = tuple(rows)
        self.is_residual = is_residual

    def reset_parameters(self) -> None: ...


class Embedding(nn.Embedding):
    """As `Linear` above."""

    def reset_parameters(self) -> None: ...


class KVCache:
    """Keys and values of the tokens seen so far, preallocated; `length` is the only position counter.

    `keys` and `values` are (L, B, G, capacity, D). The sampler owns it, the model appends to it.
    """

    def __init__(
        self, config: ModelConfig, batch_size: int, like: Tensor, capacity: int | None = None
    ) -> None:
        shape = (
            config.n_layer,
            batch_size,
            config.kv_heads,
            capacity or config.block_size,
            config.head_size,
        )
        self.keys = torch.zeros(shape, dtype=like.dtype, device=like.device)
        self.values = torch.zeros_like(self.keys)
        self.length = 0

    @property
    def capacity(self) -> int:
        return self.keys.shape[3]

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, G, T, D) behind the `length` tokens known; returns all S of them. `length` moves in the model."""
        end = self.length + k.shape[2]
        self.keys[layer, :, :, self.length : end] = k
        self.values[layer, :, :, self.length : end] = v
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


class MultiHeadAttention(nn.Module):
    """Causal self-attention; G < H shares each key and value head among H / G heads (GQA paper)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.sizes = (config.n_head, config.kv_heads, config.head_size)
        bias = config.architecture == "gpt2"
        rows = [n * config.head_size for n in (config.n_head, config.kv_heads, config.kv_heads)]
        self.qkv = Linear(config.n_embd, rows, bias=bias)
        self.proj = Linear(rows[0], [config.n_embd], bias=bias, is_residual=True)
        if (
            config.architecture == "modern"
        ):  # keeps attention logits bounded (Qwen3; Henry et al. 2020)
            self.q_norm = RMSNorm(config.head_size, torch.float32)
            self.k_norm = RMSNorm(config.head_size, torch.float32)

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor] | None, cache: KVCache | None
    ) -> Tensor:
        B, T, _ = x.shape
        H, _, D = self.sizes
        q, k, v = self.heads(x, rope)
        y = (
            causal_attention(q, k, v) if cache is None else self.attend_to_cache(q, k, v, cache)
        )  # (B, H, T, D)
        return self.proj(y.transpose(1, 2).reshape(B, T, H * D))  # (B, T, C)

    def heads(self, x: Tensor, rope: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, T, D), keys and values (B, G, T, D) of x (B, T, C)."""
        B, T, _ = x.shape
        H, G, D = self.sizes
        q, k, v = self.qkv(x).view(B, T, H + 2 * G, D).split([H, G, G], dim=2)  # (B, T, H or G, D)
        if rope is not None:
            q, k = (
                rotate(self.q_norm(q), *rope).to(v.dtype),
                rotate(self.k_norm(k), *rope).to(v.dtype),
            )
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def attend_to_cache(self, q: Tensor, k: Tensor, v: Tensor, cache: KVCache) -> Tensor:
        past, T = cache.length, q.shape[2]
        k, v = cache.append(self.layer, k, v)  # (B, G, S, D)
        mask = causal_mask(T, past, q.device) if past and T > 1 else None
        is_causal = mask is None and T > 1
        return F.scaled_dot_product_attention(
            q, k, v, mask, is_causal=is_causal, enable_gqa=k.shape[1] != q.shape[1]
        )


class FeedForward(nn.Module):
    """modern: SwiGLU, `down(silu(gate x) * up x)` (Shazeer 2020); gpt2: `down(gelu(up x))`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gated = config.architecture == "modern"
        bias = not self.gated
        rows = [config.inner_size] * (2 if self.gated else 1)  # gate and up in one
        self.up = Linear(config.n_embd, rows, bias=bias)
        self.down = Linear(config.inner_size, [config.n_embd], bias=bias, is_residual=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.gated:
            return self.down(swiglu(self.up(x)))  # (B, T, 2 I) -> (B, T, I) -> (B, T, C)
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class TransformerBlock(nn.Module):
    """Attention, then feed-forward; each reads a normalised copy and adds to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.is_modern = config.architecture == "modern"
        self.attention_norm = build_norm(config)
        self.attention = MultiHeadAttention(config, layer)
        self.feed_forward_norm = build_norm(config)
        self.feed_forward = FeedForward(config)
        self.dropout = config.dropout

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor] | None, cache: KVCache | None
    ) -> Tensor:
        x = x + self.drop(self.attention(self.attention_norm(x), rope, cache))
        return x + self.drop(self.feed_forward(self.feed_forward_norm(x)))

    def drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)


class SimpleLLM(nn.Module):
    """A decoder-only transformer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.run_block: Callable[..., Tensor] = TransformerBlock.__call__
        self.token_embedding = Embedding(config.vocab_size, config.n_embd)
        self.position_embedding: Embedding | None = None
        if config.architecture == "gpt2":
            self.position_embedding = Embedding(config.block_size, config.n_embd)
        self.blocks = nn.ModuleList(
            TransformerBlock(config, layer) for layer in range(config.n_layer)
        )
        self.final_norm = build_norm(config)
        if not config.tie_embeddings:
            self.head = Linear(config.n_embd, [config.vocab_size], bias=False)
        if config.architecture == "modern":
            rope = rope_table(config.block_size, config.head_size)
            self.register_buffer("rope", rope, persistent=False)  # (2, block_size, 1, D)
        self.n_parameters = sum(weight.numel() for weight in self.parameters())

    def forward(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """Logits (B, T, V) of the token after each of `ids` (B, T), which follow what `cache` holds.

        With a cache, at most `cache.capacity` and block_size tokens fit altogether.
        """
        return self.logits(self.hidden(ids, cache))

    def hidden(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """The normalised residual stream (B, T, C) behind the logits."""
        past, T = (cache.length if cache is not None else 0), ids.shape[1]
        assert past + T <= self.config.block_size, "the caller keeps the context within block_size"
        x = self.token_embedding(ids)  # (B, T, C)
        rope = None
        if self.position_embedding is not None:
            x = x + self.position_embedding.weight[past : past + T]
        else:
            cos, sin = self.get_buffer("rope")[:, past : past + T]
            rope = (cos, sin)
        x = dropout(x, self.config.dropout, self.training)
        for block in self.blocks:
            x = self.run_block(block, x, rope, cache)
        if cache is not None:
            cache.length += T
        return self.final_norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        if "head" in self._modules:
            return self.head(hidden)  # (..., C) -> (..., V)
        return F.linear(hidden, self.token_embedding.weight)

    def loss(
        self, ids: Tensor, targets: Tensor, label_smoothing: float = 0.0, r_drop: float = 0.0
    ) -> Tensor:
        """Mean cross entropy in nats per token; `ids` and `targets` are (B, T).

        With `r_drop` each block is read twice in one batch, with different dropout, and what the two disagree is
        added with this weight.
        """
        if r_drop:
            ids = ids.repeat(2, 1)
        logits = self.logits(dropout(self.hidden(ids), self.config.dropout, self.training)).flatten(
            0, 1
        )
        if r_drop:
            return consistent_cross_entropy(logits, targets.flatten(), label_smoothing, r_drop)
        return cross_entropy(logits, targets.flatten(), label_smoothing)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> SimpleLLM:
        """Draw all weights anew.

        gpt2 as published: N(0, 0.02), what is added to the residual stream smaller. modern: matrices that keep
        the size of what they read, and nothing added to the stream yet: each block begins as the identity.
        """
        is_gpt2 = self.config.architecture == "gpt2"
        embedding_std = GPT2_STD if is_gpt2 else modern_embedding_std(self.config)
        matrix_std = GPT2_STD if is_gpt2 else self.config.n_embd**-0.5
        residual_std = (
            GPT2_STD / math.sqrt(2 * self.config.n_layer) if is_gpt2 else 0.0
        )  # GPT-2 paper, 2.3
        stds = {"embedding.weight": embedding_std, "head.weight": GPT2_STD} | dict.fromkeys(
            RESIDUAL_MATRICES, residual_std
        )
        for name, weight in self.named_parameters():
            if name.endswith("bias"):
                weight.zero_()
            elif "norm" in name:
                weight.fill_(1.0)
            else:
                std = next((std for end, std in stds.items() if name.endswith(end)), matrix_std)
                weight.normal_(0.0, std, generator=generator)
        return self


def modern_embedding_std(config: ModelConfig) -> float:
    """Size of the residual stream: of the embeddings at the start, and of what the blocks learn to add to them."""
    return min(LARGEST_EMBEDDING_STD, LARGEST_SELF_LOGIT / config.n_embd)


class RMSNorm(nn.Module):
    """Scale to root mean square 1, times a gain for each dimension; `dtype`: see `kernels.rms_norm`."""

    def __init__(self, width: int, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, NORM_EPSILON["modern"], self.dtype)


def build_norm(config: ModelConfig) -> nn.Module:
    return (
        RMSNorm(config.n_embd)
        if config.architecture == "modern"
        else nn.LayerNorm(config.n_embd, NORM_EPSILON["gpt2"])
    )


def rope_table(n_positions: int, head_size: int) -> Tensor:
    """cos and sin of each position and frequency (RoFormer, eq. 15), (2, n_positions, 1, D); sin is signed for `rotate`.

    By numpy, so that a model built on the meta device, to be filled from a file, has its table at once.
    """
    angles = np.outer(
        np.arange(n_positions, dtype=np.float32), rope_frequencies(head_size)
    )  # (n_positions, D / 2)
    cos, sin = np.cos(angles), np.sin(angles)
    table = np.stack([np.concatenate([cos, cos], axis=-1), np.concatenate([-sin, sin], axis=-1)])
    return torch.from_numpy(table[:, :, None])


def rope_frequencies(head_size: int) -> np.ndarray:
    """How far each pair of dimensions turns from one position to the next, in radians: (D / 2) float32, fastest first."""
    return (
        ROPE_BASE ** -(np.arange(0, head_size, 2, dtype=np.float32) / np.float32(head_size))
    ).astype(np.float32)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (i, i + D/2) of x (B, T, H, D) by the angle of its position."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([second, first], dim=-1) * sin


def causal_mask(T: int, past: int, device: torch.device) -> Tensor:
    """(T, past + T) bool: token i sees the past and tokens up to itself."""
    return torch.ones(T, past + T, dtype=torch.bool, device=device).tril(diagonal=past)
