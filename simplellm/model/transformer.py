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
from torch import Tensor, nn

from simplellm.config.model import ModelConfig
from simplellm.model.attention import Rope
from simplellm.model.block import TransformerBlock
from simplellm.model.cache import KVCache
from simplellm.model.documents import positions_in, visible_in
from simplellm.model.kernels import dropout
from simplellm.model.layers import Embedding, Linear
from simplellm.model.losses import LossTerms
from simplellm.model.registry import ARCHITECTURES
from simplellm.model.rope import rope_table
from simplellm.model.split_loss import FrozenTable, split_loss


class SimpleLLM(nn.Module):
    """A decoder-only transformer.

    `run_block(block, x, rope, cache, visible)` runs one block; a caller may replace it to run
    blocks compiled, recomputed or sharded. `splits_loss`: whether the loss is computed in parts;
    only for an output table without a gradient, see split_loss.py.
    """

    rope: Tensor | None  # (2, block_size, 1, D): see `rope_table`

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.architecture = ARCHITECTURES[config.architecture]
        self.run_block: Callable[..., Tensor] = TransformerBlock.__call__
        self.splits_loss = False
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

    def hidden(
        self, ids: Tensor, cache: KVCache | None = None, documents: Tensor | None = None
    ) -> Tensor:
        """The normalized residual stream (B, T, C) from which the logits are computed.

        documents: number of the document of each token, (B, T) int64, in ascending order. Tokens
        attend to their own document only, and positions restart with each; not with a cache.
        """
        past = cache.length if cache is not None else 0
        T = ids.shape[1]
        assert past + T <= self.config.block_size, "the caller keeps the context within block_size"
        assert cache is None or documents is None, "a cache belongs to one document"
        positions: Tensor | slice = slice(past, past + T)
        visible: Tensor | None = None
        if documents is not None:
            positions = positions_in(documents)  # (B, T)
            visible = visible_in(documents)  # (B, 1, T, T)
        x = self.token_embedding(ids)  # (B, T, C)
        rope: Rope | None = None
        if self.position_embedding is not None:
            x = x + self.position_embedding.weight[positions]
        if self.rope is not None:
            cos, sin = self.rope[:, positions]  # (T, 1, D), with documents (B, T, 1, D)
            rope = (cos, sin)
        x = dropout(x, self.config.dropout, self.training)
        for block in self.blocks:
            x = self.run_block(block, x, rope, cache, visible)
        if cache is not None:
            cache.length += T
        return self.final_norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., C) -> (..., V)."""
        if "head" in self._modules:
            return self.head(hidden)
        return self.token_embedding.logits(hidden)

    def loss(
        self,
        ids: Tensor,
        targets: Tensor,
        label_smoothing: float = 0.0,
        r_drop: float = 0.0,
        weights: Tensor | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """Mean cross entropy in nats per token; `ids` and `targets` are (B, T).

        With `r_drop` the batch passes twice with different dropout masks, and the divergence of the
        two predictions is added with this weight (R-Drop, Liang et al. 2021). weights: of each
        target in the mean, (B, T) float; None is 1. documents: see `hidden`.
        """
        if r_drop:
            ids = ids.repeat(2, 1)
            documents = documents.repeat(2, 1) if documents is not None else None
        hidden = self.hidden(ids, documents=documents)
        hidden = dropout(
            hidden, self.config.dropout, self.training
        )  # (B, T, C), r_drop (2 B, T, C)
        targets = targets.flatten()  # (B T)
        passes = hidden.view(2 if r_drop else 1, len(targets), -1)
        if weights is not None:
            weights = weights.flatten()
            # Logits of targets that do not count are left out on a CPU; elsewhere, finding them
            # would wait for the device.
            if weights.device.type == "cpu" and not torch.compiler.is_compiling():
                counts = weights.nonzero().flatten()  # (N)
                passes, targets, weights = passes[:, counts], targets[counts], weights[counts]
        terms = LossTerms(targets, weights, label_smoothing, r_drop)
        # Half of the gradients in fp16 would be rounded to 0 before the loss is scaled.
        is_split = self.splits_loss and hidden.dtype != torch.float16
        if is_split and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return split_loss(passes, self._frozen_table(), terms.of_part)
        return terms.of_all(self.logits(passes.flatten(0, 1)))  # (N, V), with r_drop (2 N, V)

    def _frozen_table(self) -> FrozenTable:
        table = self.head if "head" in self._modules else self.token_embedding
        new_ids, new_rows = (getattr(table, name, None) for name in ("new_ids", "new_rows"))
        return FrozenTable(table.weight.detach(), new_ids, new_rows)

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
