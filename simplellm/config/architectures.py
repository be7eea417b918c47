"""Facts about each architecture that settings depend on; its module in model/ has the rest.

An architecture is added by one module in model/, one entry here and one line in model/registry.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class ArchitectureFacts:
    summary: str  # for help texts
    has_rotary_positions: bool  # otherwise a table of learned position embeddings
    allows_grouped_heads: bool  # n_kv_head below n_head
    inner_factor: Fraction  # default width of the feed-forward layers, in units of n_embd
    inner_multiple: int  # which that width is rounded up to
    has_tuned_rates: bool  # the recipe's learning rates were measured with it (docs/recipe.md)

    def default_inner_size(self, n_embd: int) -> int:
        return self.inner_multiple * math.ceil(n_embd * self.inner_factor / self.inner_multiple)


ARCHITECTURES = {
    "modern": ArchitectureFacts(
        summary="RMSNorm, RoPE, QK-norm, SwiGLU",
        has_rotary_positions=True,
        allows_grouped_heads=True,
        inner_factor=Fraction(8, 3),  # three matrices with the parameters of two of 4 n_embd
        inner_multiple=32,
        has_tuned_rates=True,
    ),
    "gpt2": ArchitectureFacts(
        summary="LayerNorm, learned positions, GELU",
        has_rotary_positions=False,
        allows_grouped_heads=False,
        inner_factor=Fraction(4),
        inner_multiple=1,
        has_tuned_rates=False,
    ),
}
