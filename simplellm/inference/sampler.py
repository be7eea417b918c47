"""Sampler: a model with a KV cache that gives next-token logits and sampled replies.

Shapes: V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from simplellm.config.sampling import SamplingParams
from simplellm.data.chat_template import ChatTemplate
from simplellm.data.tokenizer import Tokenizer
from simplellm.device import failures_reported
from simplellm.inference.decoder import Decoder
from simplellm.inference.filters import Array
from simplellm.inference.native_products import native_products
from simplellm.inference.quantize import is_quantized
from simplellm.inference.reply import Reply
from simplellm.model.cache import KVCache
from simplellm.model.transformer import SimpleLLM


class Sampler:
    """A model with a KV cache. The common prefix of two consecutive prompts is computed once."""

    def __init__(
        self,
        model: SimpleLLM,
        tokenizer: Tokenizer,
        end_ids: Iterable[int] = (),
        template: ChatTemplate | None = None,
    ) -> None:
        """`end_ids`: tokens that end a reply, besides END_OF_TEXT. `template`: of a chat model."""
        weight = model.token_embedding.weight
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.template = template
        self.end_ids = frozenset({tokenizer.end_of_text, *end_ids})
        self.block_size = model.config.block_size
        self._cache = KVCache(model.config, batch_size=1, like=weight)
        self._cached_ids: list[int] = []  # the cache holds the first `_cache.length` of them
        self._last_ids: Sequence[int] | None = None  # argument of the last `next_logits`
        self._n_last_ids = 0  # its length at that time
        has_decoder = weight.device.type == "cpu" and weight.dtype == torch.float32
        self.decoder = Decoder(model) if has_decoder else None
        # Without a C compiler the decoder rounds vectors to bfloat16 where weights are int8. A pass
        # over many tokens does not.
        self.rounds_vectors = has_decoder and is_quantized(model) and native_products() is None
        # Tokens that the decoder reads as fast as the model does (measured: docs/performance.md).
        reads_prompts = self.decoder is not None and self.decoder.reads_prompts
        self._max_decoded = (512 if is_quantized(model) else 128) if reads_prompts else 1
        self._n_read = 0  # leading positions of the cache that one pass computed

    def probe(self) -> None:
        """Run a short prompt and a single token; DeviceFailure if the device cannot."""
        end = self.tokenizer.end_of_text
        for length in (2, 3):
            self.next_logits([end] * length)

    def encode(self, prompt: str) -> list[int]:
        """Token ids of a prompt, after BOS where the model expects one.

        An empty prompt without BOS becomes END_OF_TEXT, which starts a document.
        """
        return self.tokenizer.encode_prompt(prompt)

    def next_logits(self, ids: Sequence[int]) -> Array:
        """Logits (V,) float32 of the token after `ids`; the next call may overwrite them.

        When the context is full, its newest half is kept and computed again. If `ids` is the list
        of the previous call with one more token, its earlier tokens are assumed to be unchanged:
        comparing them at each token would be slow.
        """
        if (
            ids is self._last_ids
            and len(ids) == self._n_last_ids + 1
            and self._cache.length < self.block_size
        ):
            new = [ids[-1]]
            self._cached_ids.append(ids[-1])
        else:
            context = self.truncate(ids)
            self._cache.length = self._n_cached(context)
            self._n_read = min(self._n_read, self._cache.length)
            new = context[self._cache.length :]
            self._cached_ids = context
        self._last_ids = None  # in case the computation is interrupted
        logits = self._read(new)
        self._last_ids, self._n_last_ids = ids, len(ids)
        return logits

    def stream(self, ids: Sequence[int], params: SamplingParams) -> Reply:
        """A sampled reply to `ids`; iterate over it. If `params` has no seed, it is random."""
        return Reply(self, list(ids), params)

    def truncate(self, ids: Sequence[int]) -> list[int]:
        """`ids`, or their newest part if they do not fit into the context. BOS stays before it.

        The cut moves in steps of half a context, so that the next tokens reuse the cache.
        """
        ids = list(ids)
        if len(ids) <= self.block_size:
            return ids
        bos_ids = list(self.tokenizer.bos_ids)
        has_room = len(bos_ids) + 2 <= self.block_size
        start = bos_ids if has_room and ids[: len(bos_ids)] == bos_ids else []
        room = self.block_size - len(start)  # at least 2
        step = room - max(room // 2, 1)
        n_steps = -(-(len(ids) - len(start) - room) // step)
        return start + ids[len(start) + n_steps * step :]

    def _read(self, new: list[int]) -> Array:
        if self.decoder is None:
            return self._read_all(new)
        if len(new) > self._max_decoded:
            self._n_read = 0
            self._read_all(new[:-1])
            self._n_read = self._cache.length
            new = new[-1:]
        # Always by the decoder, so that a prompt in the cache and a new one give the same logits.
        return self.decoder.read(self._cache, new)

    @torch.inference_mode()
    def _read_all(self, new: list[int]) -> Array:
        device = self._cache.keys.device
        with failures_reported(device):
            hidden = self.model.hidden(torch.tensor([new], device=device), self._cache)
            return self.model.logits(hidden[0, -1]).float().cpu().numpy()

    def _n_cached(self, context: list[int]) -> int:
        """Number of leading ids of `context` in the cache, except its last, which gives logits.

        Where the decoder rounds vectors, only a repeated prompt is reused: the same seed would give
        another reply after a pass over the whole prompt in 1 to 69% of cases (measured).
        """
        limit = min(len(self._cached_ids), self._cache.length, len(context) - 1)
        if self.rounds_vectors:
            limit = len(context) - 1
            is_repeated = self._n_read == limit and self._cached_ids[:limit] == context[:limit]
            return limit if is_repeated else 0
        if self._cached_ids[:limit] == context[:limit]:
            return limit
        return next(i for i in range(limit) if self._cached_ids[i] != context[i])
