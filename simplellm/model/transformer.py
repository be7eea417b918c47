"""The language model: token ids in, logits out.

It has what all architectures share: embeddings, blocks, a final norm and an output table. Their
parts come from the module of the architecture (modern.py, gpt2.py). The model knows no device,
number format, process group or optimizer; compilation, gradient checkpointing and freezing are
applied from outside.

Shapes: B batch, T tokens, C n_embd, D head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simplellm.config.model import ModelConfig
from simplellm.model.attention import Rope
from simplellm.model.block import TransformerBlock
from simplellm.model.cache import KVCache
from simplellm.model.kernels import dropout
from simplellm.model.layers import Embedding, Linear
from simplellm.model.losses import cross_entropy, r_drop_cross_entropy
from simplellm.model.registry import ARCHITECTURES
from simplellm.model.rope import rope_table


class SimpleLLM(nn.Module):
    """A decoder-only transformer.

    `run_block(block, x, rope, cache)` runs one block; a caller may replace it to run blocks
    compiled, recomputed or sharded.
    """

    rope: Tensor | None  # (2, block_size, 1, D): see `rope_table`

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.architecture = ARCHITECTURES[config.architecture]
        self.run_block: Callable[..., Tensor] = TransformerBlock.__call__
        self.token_embedding = Embedding(config.vocab_size, config.n_embd)
        self.position_embedding: Embedding | None = None
        if not config.facts.has_rotary_positions:
            self.position_embedding = Embedding(config.positions, config.n_embd)
        self.blocks = nn.ModuleList(
            self.architecture.build_block(config, layer) for layer in range(config.n_layer)
        )
        self.final_norm = self.architecture.build_norm(config)
        if not config.tie_embeddings:
            self.head = Linear(config.n_embd, [config.vocab_size], bias=False)
        self.register_buffer("rope", self._rope_table(), persistent=False)
        self.n_parameters = sum(weight.numel() for weight in self.parameters())

    def _rope_table(self) -> Tensor | None:
        if not self.config.facts.has_rotary_positions:
            return None
        return rope_table(self.config.block_size, self.architecture.rope_frequencies(self.config))

    def forward(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """Logits (B, T, V) of the token after each of `ids` (B, T), which follow those in `cache`.

        Cached and new tokens together are at most block_size.
        """
        return self.logits(self.hidden(ids, cache))

    def hidden(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """The normalized residual stream (B, T, C) from which the logits are computed."""
        past = cache.length if cache is not None else 0
        T = ids.shape[1]
        assert past + T <= self.config.block_size, "the caller keeps the context within block_size"
        x = self.token_embedding(ids)  # (B, T, C)
        rope: Rope | None = None
        if self.position_embedding is not None:
            x = x + self.position_embedding.weight[past : past + T]
        if self.rope is not None:
            cos, sin = self.rope[:, past : past + T]  # (T, 1, D)
            rope = (cos, sin)
        x = dropout(x, self.config.dropout, self.training)
        for block in self.blocks:
            x = self.run_block(block, x, rope, cache)
        if cache is not None:
            cache.length += T
        return self.final_norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., C) -> (..., V)."""
        if "head" in self._modules:
            return self.head(hidden)
        return F.linear(hidden, self.token_embedding.weight)

    def loss(
        self, ids: Tensor, targets: Tensor, label_smoothing: float = 0.0, r_drop: float = 0.0
    ) -> Tensor:
        """Mean cross entropy in nats per token; `ids` and `targets` are (B, T).

        With `r_drop` the batch passes twice with different dropout masks, and the divergence of the
        two predictions is added with this weight (R-Drop, Liang et al. 2021).
        """
        if r_drop:
            ids = ids.repeat(2, 1)
        hidden = dropout(self.hidden(ids), self.config.dropout, self.training)
        logits = self.logits(hidden).flatten(0, 1)  # (B T, V), with r_drop (2 B T, V)
        if r_drop:
            return r_drop_cross_entropy(logits, targets.flatten(), label_smoothing, r_drop)
        return cross_entropy(logits, targets.flatten(), label_smoothing)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> SimpleLLM:
        """Draw all weights, in the order of `named_parameters`; returns the model."""
        for name, weight in self.named_parameters():
            if name.endswith("bias"):
                weight.zero_()
            elif "norm" in name:
                weight.fill_(1.0)
            else:
                std = self.architecture.initial_std(self.config, name)
                weight.normal_(0.0, std, generator=generator)
        return self
