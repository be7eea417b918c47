"""Token embeddings composed from the embeddings of the parts of each token.

On small text most tokens are rare, but their parts are not: `listened` ends in `ed` and begins with
`listen`. With composition the optimizer trains a table R, and the model uses A R: each token's own
row plus the scaled sum of the rows of its parts. A is fixed and sparse, so neither the model nor
its file depends on it. Compare the subword vectors of Bojanowski et al. 2017.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from simplellm.data.tokenizer import Tokenizer

Entry = tuple[int, int, float]  # row, column, value


def composition_matrices(tokenizer: Tokenizer, weight: float, tied: bool) -> dict[str, Tensor]:
    """The sparse matrix A (V, V) of each table by name; none with `weight` 0.

    Parts of an input token are its proper suffixes, those of an output token its proper prefixes.
    A tied table uses both.
    """
    if not weight:
        return {}
    suffixes = _entries(tokenizer, weight, lambda token: [token[i:] for i in range(1, len(token))])
    prefixes = _entries(tokenizer, weight, lambda token: [token[:i] for i in range(1, len(token))])
    if tied:
        return {"token_embedding.weight": _sparse(suffixes + prefixes, tokenizer.vocab_size)}
    return {
        "token_embedding.weight": _sparse(suffixes, tokenizer.vocab_size),
        "head.weight": _sparse(prefixes, tokenizer.vocab_size),
    }


class ComposedTable:
    """A weight of the model that is A R: the optimizer moves `raw` (R), the model sees A R.

    matrix: A, sparse (V, V); weight: the model's table (V, C), whose initial values become R.
    """

    def __init__(self, name: str, weight: Tensor, matrix: Tensor) -> None:
        self.name, self.weight = name, weight
        self.raw = torch.nn.Parameter(weight.detach().clone())
        # Dense elsewhere: some torch lacks the sparse product on MPS, and CUDA's may vary by run.
        is_sparse = weight.device.type == "cpu"
        self._matrix = matrix if is_sparse else matrix.to_dense().to(weight.device)
        self._transposed = self._matrix.t().coalesce() if is_sparse else self._matrix.t()
        self._product = torch.sparse.mm if is_sparse else torch.mm
        self.compose()

    @torch.no_grad()
    def compose(self) -> None:
        """Set the model's table to A R."""
        self.weight.copy_(self._product(self._matrix, self.raw))

    def pull_back_gradient(self) -> None:
        """Set the gradient of R from that of the model's table."""
        gradient = self.weight.grad
        assert gradient is not None
        self.raw.grad = self._product(self._transposed, gradient)


def _entries(
    tokenizer: Tokenizer, weight: float, parts_of: Callable[[bytes], list[bytes]]
) -> list[Entry]:
    """An entry for each part of each token that is a token too.

    With n parts each has `weight` / sqrt(n), so that their sum is about as large as one row.
    """
    entries = []
    for token, number in tokenizer.ranks.items():
        parts = [tokenizer.ranks[part] for part in parts_of(token) if part in tokenizer.ranks]
        entries += [(number, part, weight / len(parts) ** 0.5) for part in parts]
    return entries


def _sparse(entries: list[Entry], size: int) -> Tensor:
    entries = [(i, i, 1.0) for i in range(size)] + entries
    rows, columns, values = zip(*entries, strict=True)
    indices = torch.tensor([rows, columns])
    matrix = torch.sparse_coo_tensor(
        indices, torch.tensor(values), (size, size), check_invariants=True
    )
    return matrix.coalesce()
