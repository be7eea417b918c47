"""Initial weights with a pair of induction heads, which copy from the context.

A transformer repeats what it read earlier with a pair of heads (Elhage et al. 2021, "A mathematical
framework for transformer circuits"; Olsson et al. 2022, "In-context learning and induction heads"):
a head of the first block tells each token which token preceded it, and a head of the second block
finds the places whose preceding token is the current one and predicts the token found there. A
small model on a small text does not learn this pair in the time it has. Here it is written into the
initial weights, and training continues from there. It helps with names above all: a model with the
pair takes them from its context, also names that were not in its training text.

The residual stream is split into four orthogonal subspaces:
- shared: one direction with the same value for all tokens, from which a head that attends by
  position only gets its query and key
- token: the token embeddings
- before: where the first head writes the code of the preceding token
- after: where the second head writes the code of the token it found; the output table reads it

Shapes: C n_embd, D head size, V vocabulary, E dimensions of the token subspace, K dimensions of a
code.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor

from simplellm.config.model import ModelConfig
from simplellm.model.attention import MultiHeadAttention
from simplellm.model.block import TransformerBlock, residual_stream_std
from simplellm.model.layers import RMSNorm
from simplellm.model.transformer import SimpleLLM

QK_GAIN = 1.5  # of QK-norm: sharp attention with a head size of 64 (measured: docs/recipe.md)
SHARED_SIZE = 0.7  # size of an embedding's part in `shared`, relative to its part in `token`
MAX_CODE_SIZE = 32
SLOW_RADIANS = 1.5  # dimensions that rotate less over a block compare tokens at any distance
MAX_FAST_PAIRS = 8  # pairs of dimensions whose rotation distinguishes neighbouring positions
KEPT_SHARE = 0.1  # of the randomly drawn weights of the heads that are written here
COPY_LOGIT = 4.0  # added to the logit of the token that was found


class _Subspaces(NamedTuple):
    """Orthonormal columns that span the residual stream."""

    shared: Tensor  # (C)
    before: Tensor  # (C, K)
    after: Tensor  # (C, K)
    token: Tensor  # (C, E)


class _HeadWeights(NamedTuple):
    """Views of the weights of one attention head."""

    query: Tensor  # (D, C)
    key: Tensor  # (D, C)
    value: Tensor  # (D, C)
    output: Tensor  # (C, D)


@torch.no_grad()
def plant_induction_heads(model: SimpleLLM, generator: torch.Generator) -> bool:
    """Write the pair of heads into weights just drawn by `init_weights`.

    Returns False, with nothing changed, where the model has no room for it: it takes rotary
    positions, QK-norm, two blocks, and a width and a head size of about 32 or more.
    """
    config = model.config
    slow = _slow_dimensions(model)
    if slow is None:
        return False
    first, second = (cast(TransformerBlock, block).attention for block in model.blocks[:2])
    K = len(slow)
    spaces = _split_stream(config.n_embd, K, generator)
    embeddings = _write_embeddings(model, spaces, generator)  # (V, E)
    n_token = spaces.token.shape[1]
    code = torch.linalg.qr(torch.randn(n_token, K, generator=generator))[0]  # (E, K)
    read_code = (spaces.token @ code).T  # (K, C)
    stream_std = residual_stream_std(config) * math.hypot(1.0, SHARED_SIZE)
    write_size = stream_std * math.sqrt(n_token / K)
    _write_previous_token_head(model, _first_head(first), spaces, read_code, write_size)
    result = read_code.T if config.tie_embeddings else spaces.after  # (C, K)
    _write_copying_head(_first_head(second), slow, spaces, read_code, write_size * result)
    if not config.tie_embeddings:
        codes = torch.nn.functional.normalize(embeddings @ code, dim=1)  # (V, K)
        model.head.weight.add_(COPY_LOGIT / math.sqrt(config.n_embd) * codes @ spaces.after.T)
    _set_qk_gains(model)
    return True


def _slow_dimensions(model: SimpleLLM) -> Tensor | None:
    """The K dimensions of a head that rotate least; None where the pair has no room."""
    config = model.config
    if model.rope is None or config.n_layer < 2 or not _has_qk_norm(model):
        return None
    radians = _frequencies(model) * config.block_size  # (D / 2)
    slow = torch.nonzero(radians < SLOW_RADIANS).flatten()
    n_slow = min(len(slow), MAX_CODE_SIZE // 2, (config.n_embd - 1) // 6)
    if n_slow < 2:
        return None
    return torch.cat([slow[-n_slow:], slow[-n_slow:] + config.head_size // 2])


def _has_qk_norm(model: SimpleLLM) -> bool:
    return all(cast(TransformerBlock, block).attention.q_norm for block in model.blocks)


def _frequencies(model: SimpleLLM) -> Tensor:
    return torch.from_numpy(model.architecture.rope_frequencies(model.config))


def _split_stream(width: int, code_size: int, generator: torch.Generator) -> _Subspaces:
    basis = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]  # (C, C)
    n_token = width - 1 - 2 * code_size
    shared, before, after, token = basis.split([1, code_size, code_size, n_token], dim=1)
    return _Subspaces(shared[:, 0], before, after, token)


def _write_embeddings(model: SimpleLLM, spaces: _Subspaces, generator: torch.Generator) -> Tensor:
    """Draw embeddings within `shared` and `token`; returns coordinates in `token` (V, E)."""
    config: ModelConfig = model.config
    n_token = spaces.token.shape[1]
    embeddings = torch.randn(config.vocab_size, n_token, generator=generator)
    own_size = math.sqrt(config.n_embd / n_token)  # norms as of embeddings in the whole stream
    shared = SHARED_SIZE * math.sqrt(config.n_embd) * spaces.shared  # (C)
    model.token_embedding.weight.copy_(
        residual_stream_std(config) * (own_size * embeddings @ spaces.token.T + shared)
    )
    return embeddings


def _first_head(attention: MultiHeadAttention) -> _HeadWeights:
    """Views of the first head's weights; what was drawn for query, key and value is scaled down."""
    H, G, D = attention.sizes
    query, key, value = (
        attention.qkv.weight[head * D : (head + 1) * D].mul_(KEPT_SHARE) for head in (0, H, H + G)
    )
    return _HeadWeights(query, key, value, attention.proj.weight[:, :D])


def _write_previous_token_head(
    model: SimpleLLM, head: _HeadWeights, spaces: _Subspaces, read_code: Tensor, write_size: float
) -> None:
    """Attend to the preceding position, and write the code of the token there to `before`."""
    K = len(read_code)
    query, key = _neighbour_query_and_key(_frequencies(model))
    head.query.add_(torch.outer(query, spaces.shared))
    head.key.add_(torch.outer(key, spaces.shared))
    head.value[:K] += read_code
    head.output[:, :K] = write_size * spaces.before


def _write_copying_head(
    head: _HeadWeights, slow: Tensor, spaces: _Subspaces, read_code: Tensor, result: Tensor
) -> None:
    """Attend to tokens preceded by the current token, and write their code as `result` (C, K)."""
    K = len(read_code)
    head.query[slow] += read_code
    head.key[slow] += spaces.before.T
    head.value[:K] += read_code
    head.output[:, :K] = result


def _neighbour_query_and_key(frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Query and key (D) of a head that attends to the preceding position.

    The key is the query rotated by one position, in the pairs of dimensions that rotate fastest.
    """
    half = len(frequencies)
    fast = min(MAX_FAST_PAIRS, half)
    query = torch.zeros(2 * half)
    key = torch.zeros(2 * half)
    query[:fast] = 1.0
    key[:fast] = frequencies[:fast].cos()
    key[half : half + fast] = frequencies[:fast].sin()
    return query, key


def _set_qk_gains(model: SimpleLLM) -> None:
    for block in model.blocks:
        attention = cast(TransformerBlock, block).attention
        for norm in (attention.q_norm, attention.k_norm):
            assert isinstance(norm, RMSNorm), "checked before"
            norm.weight.fill_(QK_GAIN)
