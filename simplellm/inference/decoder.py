"""The forward pass of some tokens on a CPU, in numpy and C: the inner loop of text generation.

The tokens may belong to different texts. For a single token every product is a matrix times a
vector: each weight is read once and used once, so that the time goes to reading memory and to
calling operators. numpy's calls take a fifth of the time of torch's (measured:
docs/performance.md). With several tokens each weight is read once for all of them. The computation
is that of model/ on the same weights and the same caches. Weights are copied only where 16 bits
hold the same values (exact_weights.py).

What is computed for a token has the same bits whatever other tokens are read in the same pass.

The kinds of layers decide what is computed (RMSNorm or LayerNorm, MLP or GatedMLP, rotary or
learned positions, with or without QK-norm), not the name of the architecture.

Shapes: R tokens, C n_embd, D head size, P positions, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from simplellm.inference.native_products import native_products
from simplellm.inference.places import Part, Places
from simplellm.inference.row_attention import attention
from simplellm.inference.row_operations import MAX_ROWS, activation, array, norm, product
from simplellm.inference.vectors import Array, Vectors, aligned
from simplellm.inference.workspace import Workspace, n_floats
from simplellm.model.block import TransformerBlock
from simplellm.model.cache import KVCache
from simplellm.model.feed_forward import MLP, GatedMLP
from simplellm.model.transformer import SimpleLLM


class Decoder:
    """Appends tokens to KV caches of one row each, and computes logits.

    reads_prompts: whether it is also fast for many tokens of one text. Otherwise the model itself
    should read them.
    """

    def __init__(self, model: SimpleLLM) -> None:
        self._config = model.config
        positions, rope = model.position_embedding, model.rope
        self._embeddings = array(model.token_embedding.weight)  # (V, C)
        self._positions = None if positions is None else array(positions.weight)  # (P, C)
        table = None if rope is None else rope.numpy()[:, :, 0]  # (2, P, D)
        blocks = cast("list[TransformerBlock]", list(model.blocks))
        self._layers = [(attention(block, table), _feed_forward(block)) for block in blocks]
        self._up_size = blocks[0].feed_forward.up.out_features
        self._final_norm = norm(model.final_norm)
        self._head = product(getattr(model, "head", model.token_embedding))
        self._memory = aligned(n_floats(model.config, self._up_size, MAX_ROWS))
        self._workspaces: dict[int, Workspace] = {}
        self._outputs: dict[int, tuple[Vectors, Vectors]] = {}
        native = native_products()
        self.reads_prompts = native is not None and native.is_threaded

    def read(self, cache: KVCache, tokens: Sequence[int]) -> Array:
        """Append `tokens` to `cache`; returns the logits (V,) float32 of the token after them.

        The next call overwrites them.
        """
        whole = (len(tokens) - 1) // MAX_ROWS * MAX_ROWS
        for start in range(0, whole, MAX_ROWS):
            self.read_parts([Part(cache, tokens[start : start + MAX_ROWS], has_logits=False)])
        logits = self.read_parts([Part(cache, tokens[whole:], has_logits=True)])[0]
        assert logits is not None
        return logits

    def read_parts(self, parts: Sequence[Part]) -> list[Array | None]:
        """Append the tokens of each part to its cache, MAX_ROWS at most in all.

        Returns the logits (V,) float32 after each part that wants them; the next call overwrites
        them.
        """
        tokens = [token for part in parts for token in part.tokens]
        space = self._workspace(len(tokens))
        places = Places(parts)
        np.take(self._embeddings, tokens, axis=0, out=space.x.array, mode="clip")
        if self._positions is not None:
            space.x.array += self._positions[places.positions]
        with np.errstate(over="ignore"):  # exp in silu may overflow to infinity, which is right
            for attend, feed_forward in self._layers:
                attend(space, places)
                feed_forward(space)
        for part in parts:
            part.cache.length += len(part.tokens)
        return self._logits(space, parts)

    def _logits(self, space: Workspace, parts: Sequence[Part]) -> list[Array | None]:
        ends = itertools.accumulate(len(part.tokens) for part in parts)
        rows = [end - 1 for end, part in zip(ends, parts, strict=True) if part.has_logits]
        if not rows:
            return [None] * len(parts)
        normed, logits = self._output(len(rows))
        x = space.x if len(rows) == len(space.x.rows) else Vectors(space.x.array[rows])
        self._final_norm(x, normed)
        self._head(normed, logits)
        found = iter(logits.rows)
        return [next(found) if part.has_logits else None for part in parts]

    def _workspace(self, n_rows: int) -> Workspace:
        assert 0 < n_rows <= MAX_ROWS
        if n_rows not in self._workspaces:
            self._workspaces[n_rows] = Workspace(self._config, self._up_size, n_rows, self._memory)
        return self._workspaces[n_rows]

    def _output(self, n_rows: int) -> tuple[Vectors, Vectors]:
        """Buffers of the final norm (n_rows, C) and of the logits (n_rows, V)."""
        if n_rows not in self._outputs:
            sizes = (self._config.n_embd, self._config.vocab_size)
            normed, logits = (Vectors(np.empty((n_rows, size), np.float32)) for size in sizes)
            self._outputs = {n_rows: (normed, logits)}  # one at a time: they may be large
        return self._outputs[n_rows]


def _feed_forward(block: TransformerBlock) -> Callable[[Workspace], None]:
    """x += feed_forward(norm(x))."""
    layer: MLP | GatedMLP = block.feed_forward
    normalize = norm(block.feed_forward_norm)
    up = product(layer.up)
    down = product(layer.down)
    activate = activation(layer)

    def feed_forward(space: Workspace) -> None:
        normalize(space.x, space.normed)
        up(space.normed, space.up)
        activate(space.up, space.activated)
        down(space.activated, space.added)
        np.add(space.x.array, space.added.array, space.x.array)

    return feed_forward
