"""Embeddings that know the parts of their token.

On small text most tokens are rare, but what they are made of is not: `listened` ends in `ed` and
begins with `listen`. With composition, the table that is trained is a raw one, R, and the table the
model uses is A R: each token's own row plus the mean of the rows of its parts. A is fixed and
sparse, so the model and its file know nothing of this; see `optim.Optimizer`.
Compare the subword vectors of Bojanowski et al. 2017.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from simplellm.data.tokenizer import Tokenizer


def composition_matrices(tokenizer: Tokenizer, weight: float, tied: bool) -> dict[str, Tensor]:
    """A (V, V) sparse for each table by its name: a token read is known by its endings, a token predicted by its beginnings.

    A tied table is both. `weight` 0 gives none.
    """
    if not weight:
        return {}
    endings = _parts(tokenizer, weight, lambda token: [token[i:] for i in range(1, len(token))])
    beginnings = _parts(tokenizer, weight, lambda token: [token[:i] for i in range(1, len(token))])
    if tied:
        return {"token_embedding.weight": _sparse(endings + beginnings, tokenizer.vocab_size)}
    return {
        "token_embedding.weight": _sparse(endings, tokenizer.vocab_size),
        "head.weight": _sparse(beginnings, tokenizer.vocab_size),
    }


Entry = tuple[int, int, float]  # row, column, value


def _parts(tokenizer: Tokenizer, weight: float, cut: Callable[[bytes], list[bytes]]) -> list[Entry]:
    """For each token the parts that are tokens too; their rows add up to about the size of one."""
    entries = []
    for token, number in tokenizer.ranks.items():
        parts = [tokenizer.ranks[part] for part in cut(token) if part in tokenizer.ranks]
        entries += [(number, part, weight / len(parts) ** 0.5) for part in parts]
    return entries


def _sparse(entries: list[Entry], size: int) -> Tensor:
    entries = [(i, i, 1.0) for i in range(size)] + entries
    rows, columns, values = zip(*entries, strict=True)
    places = torch.tensor([rows, columns])
    return torch.sparse_coo_tensor(
        places, torch.tensor(values), (size, size), check_invariants=True
    ).coalesce()
