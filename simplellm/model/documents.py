"""Several documents in one block: which tokens see each other, and their positions.

Shapes: B blocks, T tokens of a block. `documents` (B, T) is the number of the document of each
token, in ascending order along a block.
"""

from __future__ import annotations

import torch
from torch import Tensor


def visible_in(documents: Tensor) -> Tensor:
    """Whether a token (row) attends to another (column): not to a later one, in its own document.

    (B, 1, T, T) bool.
    """
    same = documents[:, :, None] == documents[:, None, :]  # (B, T, T)
    return same.tril_().unsqueeze(1)


def positions_in(documents: Tensor) -> Tensor:
    """The position of each token in its document, (B, T) int64, from 0."""
    places = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    starts = torch.where(begins, places, 0).cummax(dim=1).values  # of the document of each token
    return places - starts
