"""The forward pass of several replies, each with a KV cache of its own.

What is guaranteed: the logits of a reply have the same bits whatever other replies are computed
with it, because each token is.

- On a CPU with a C compiler that has OpenMP: also whatever part of the text was in the prefix cache
  and in which parts the rest is read. All tokens of a pass, of prompts and of replies, go through
  the decoder together (decoder.py).
- On a CPU without: the model reads a prompt alone, in parts with fixed borders. The last token and
  the new ones go through the decoder, vector by vector if there is no compiler at all. After a
  prefix from the cache, logits may differ in their last bits.
- On a GPU, and for weights in 16 bits: the model computes each reply alone, with its last token.

Shapes: V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from simplellm.device import failures_reported
from simplellm.inference.filters import Array
from simplellm.inference.places import Part
from simplellm.inference.row_operations import MAX_ROWS
from simplellm.inference.sampler import Sampler
from simplellm.model.cache import KVCache

PART = 256  # tokens of a prompt that the model reads in one pass
PROMPT_ROWS = 32  # tokens of prompts in a pass, while replies wait for their next token
Text = tuple[KVCache, Sequence[int]]  # the tokens that follow those in the cache; at least one


class Rows:
    """Computes the next tokens of several texts with the model of a sampler."""

    def __init__(self, sampler: Sampler) -> None:
        self._model = sampler.model
        self._decoder = sampler.decoder
        self._device = sampler.model.token_embedding.weight.device
        self._reads_prompts = self._decoder is not None and self._decoder.reads_prompts
        # Where the decoder rounds vectors, a prefix that it has read gives another reply.
        self.can_share_prefixes = not sampler.rounds_vectors

    def new_cache(self, n_positions: int) -> KVCache:
        """A cache for a reply of at most so many tokens."""
        weight = self._model.token_embedding.weight
        return KVCache(self._model.config, 1, weight, n_positions)

    def cache_bytes(self, n_positions: int) -> int:
        """Bytes that such a cache has when it is full."""
        config, weight = self._model.config, self._model.token_embedding.weight
        per_layer = 2 * config.kv_heads * config.head_size * weight.element_size()
        return config.n_layer * per_layer * n_positions

    def next_parts(self, texts: Sequence[Text]) -> list[Part | None]:
        """What to read of each text in the next pass; None of those that wait for a prompt."""
        if not self._reads_prompts:
            return [self._fixed_part(*text) for text in texts]
        n_single = sum(len(unread) == 1 for _, unread in texts)
        room = min(PROMPT_ROWS, max(MAX_ROWS - n_single, 1)) if n_single else MAX_ROWS
        parts: list[Part | None] = []
        for cache, unread in texts:
            n = 1 if len(unread) == 1 else min(len(unread), room)
            room -= n if len(unread) > 1 else 0
            parts.append(Part(cache, unread[:n], n == len(unread)) if n else None)
        return parts

    def read(self, parts: Sequence[Part]) -> list[Array | None]:
        """Logits (V,) float32 after each part that wants them; the next call may overwrite them."""
        together = [part for part in parts if self._is_for_decoder(part)]
        alone = [part for part in parts if not self._is_for_decoder(part)]
        found = {id(part): self._read_alone(part) for part in alone}
        for group in _groups(together):
            assert self._decoder is not None
            logits = self._decoder.read_parts(group)
            is_last = group[-1] is together[-1]
            for part, row in zip(group, logits, strict=True):
                found[id(part)] = row if row is None or is_last else row.copy()
        return [found[id(part)] for part in parts]

    def _fixed_part(self, cache: KVCache, unread: Sequence[int]) -> Part:
        """Up to the next border; for the decoder the last token alone, as in the sampler."""
        is_last_alone = self._decoder is not None and len(unread) > 1
        n = min(PART - cache.length % PART, len(unread) - is_last_alone)
        return Part(cache, unread[:n], has_logits=n == len(unread))

    def _is_for_decoder(self, part: Part) -> bool:
        return self._reads_prompts or (self._decoder is not None and part.has_logits)

    @torch.inference_mode()
    def _read_alone(self, part: Part) -> Array | None:
        with failures_reported(self._device):
            ids = torch.tensor([part.tokens], device=self._device)
            hidden = self._model.hidden(ids, part.cache)
            if not part.has_logits:
                return None
            return self._model.logits(hidden[0, -1]).float().cpu().numpy()


def _groups(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """`parts` in passes of at most MAX_ROWS tokens."""
    group: list[Part] = []
    for part in parts:
        if sum(len(one.tokens) for one in group) + len(part.tokens) > MAX_ROWS:
            yield group
            group = []
        group.append(part)
    if group:
        yield group
