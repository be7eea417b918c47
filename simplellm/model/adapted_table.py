"""Frozen tables of tokens with a few trained rows: tokens that a frozen model does not know yet.

A chat template brings special tokens. Their rows in the embeddings and in the output table have to
be learned, also where all other weights are frozen. `peft` calls them `trainable_token_indices`.

Shapes: V vocabulary, C n_embd, n trained rows.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AdaptedTable(nn.Module):
    """A frozen table (V, C), of which the rows `new_ids` are trained: as an embedding, or tied.

    The trained rows are a parameter of their own; the table, whose memory models may share, gets
    them when it is used. Its state is that of a table without trained rows.
    """

    table: Tensor
    new_ids: Tensor
    places: Tensor

    def __init__(self, table: Tensor, new_ids: tuple[int, ...]) -> None:
        super().__init__()
        ids = torch.tensor(new_ids, dtype=torch.int64)
        places = torch.full((len(table),), -1)  # of each token among the trained rows
        places[ids] = torch.arange(len(ids))
        self.register_buffer("table", table)
        self.register_buffer("new_ids", ids)
        self.register_buffer("places", places)
        self.new_rows = nn.Parameter(table[ids].clone())  # (n, C)

    @property
    def weight(self) -> Tensor:
        """The whole table with its trained rows (V, C), without a gradient."""
        with torch.no_grad():
            self.table.index_copy_(0, self.new_ids, self.new_rows)
        return self.table

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings (..., C) of `ids` (...)."""
        x = F.embedding(ids, self.weight)
        places = self.places[ids]
        rows = F.embedding(places.clamp_min(0), self.new_rows)
        return torch.where(places.unsqueeze(-1) >= 0, rows, x)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., C) -> (..., V)."""
        logits = F.linear(hidden, self.weight)
        if not torch.is_grad_enabled():
            return logits
        return logits.index_copy(-1, self.new_ids, F.linear(hidden, self.new_rows))

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self.weight.clone()


class AdaptedHead(AdaptedTable):
    """An output table that is not tied to the embeddings."""

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., C) -> (..., V)."""
        return self.logits(hidden)
