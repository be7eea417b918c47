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
    is_trainable_from_scratch: bool = True  # otherwise only imported models have it

    def default_inner_size(self, n_embd: int) -> int:
        return self.inner_multiple * math.ceil(n_embd * self.inner_factor / self.inner_multiple)


def _of_llama_family(summary: str) -> ArchitectureFacts:
    return ArchitectureFacts(
        summary=summary,
        has_rotary_positions=True,
        allows_grouped_heads=True,
        inner_factor=Fraction(8, 3),
        inner_multiple=32,
        has_tuned_rates=False,
        is_trainable_from_scratch=False,
    )


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
    "llama": _of_llama_family("RMSNorm, RoPE, SwiGLU"),
    "mistral": _of_llama_family("as llama, without sliding window"),
    "qwen2": _of_llama_family("as llama, with biases of queries, keys and values"),
    "qwen3": _of_llama_family("as llama, with QK-norm"),
}
TRAINABLE = {
    name: facts for name, facts in ARCHITECTURES.items() if facts.is_trainable_from_scratch
}
IMPORTED = tuple(name for name in ARCHITECTURES if name not in TRAINABLE)
