"""First weights that already know how to copy.

A transformer repeats what it has read a moment ago with a pair of heads (Elhage et al. 2021, "A mathematical framework
for transformer circuits"; Olsson et al. 2022, "In-context learning and induction heads"): one in the first block tells each
token which token came before it, and one in the second looks for places whose token before is the one just read, and says
what stood there. A small model on a small text does not find this pair in the time it has. Here it is written into
the first weights, by hand, and training goes on from there as ever.

Names come up again and again in the text they belong to: with the pair a model takes them from what it has read, also
those it was never trained on.

The residual stream is cut into four parts at right angles:
- one direction that is the same for all tokens: where a head that knows positions only gets its query and key from
- `token`: the embeddings
- `before`: where the first head writes a code of the token before
- `after`: where the second head writes the code of the token it found; the output table reads it

Shapes: C n_embd, D head size, V vocabulary, K size of a code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from simplellm.model.transformer import (
    MultiHeadAttention,
    SimpleLLM,
    modern_embedding_std,
    rope_frequencies,
)

QK_GAIN = 1.5  # of queries and keys: as far as 64 dimensions let attention be sharp (measured: docs/recipe.md)
SAME_FOR_ALL = 0.7  # size of the part that all embeddings share, against that of the token's own
MOST_CODE = 32  # dimensions of a code
SLOWEST_TURN = (
    1.5  # radians over a block: dimensions that turn less compare tokens, wherever they stand
)
FASTEST_DIMENSIONS = 8  # pairs whose turning tells neighbours apart
LEFT_OF_THE_DRAWN = 0.1  # share of the randomly drawn weights that stays in the heads written here
COPY_LOGIT = 4.0  # what a token that was found is given in the output table


@torch.no_grad()
def plant_induction_heads(model: SimpleLLM, generator: torch.Generator) -> bool:
    """Write the pair into weights just drawn by `init_weights`; False, and nothing changed, where there is no room for it.

    It takes the `modern` architecture, two blocks, and a width and head size of about 32 or more.
    """
    config = model.config
    frequencies = torch.from_numpy(rope_frequencies(config.head_size))
    slow = torch.nonzero(frequencies * config.block_size < SLOWEST_TURN).flatten()
    n_slow = min(len(slow), MOST_CODE // 2, (config.n_embd - 1) // 6)
    if config.architecture != "modern" or config.n_layer < 2 or n_slow < 2:
        return False
    half, K = config.head_size // 2, 2 * n_slow
    slow = torch.cat([slow[-n_slow:], slow[-n_slow:] + half])
    same, before, after, token = _parts(config.n_embd, K, generator)
    embeddings = torch.randn(config.vocab_size, token.shape[1], generator=generator)
    std, loudness = modern_embedding_std(config), math.hypot(1.0, SAME_FOR_ALL)
    own_size = math.sqrt(
        config.n_embd / token.shape[1]
    )  # so that they are as large as embeddings all over the stream
    model.token_embedding.weight.copy_(
        std * (own_size * embeddings @ token.T + SAME_FOR_ALL * math.sqrt(config.n_embd) * same)
    )
    code = torch.linalg.qr(torch.randn(token.shape[1], K, generator=generator))[0]  # (token, K)
    read_code = (token @ code).T  # (K, C)
    write_size = std * loudness * math.sqrt(token.shape[1] / K)

    first, second = (
        module
        for module in model.modules()
        if isinstance(module, MultiHeadAttention) and module.layer < 2
    )
    query, key, value, output = _first_head(first)
    here, one_earlier = _neighbours(frequencies, half)
    query += torch.outer(here, same)
    key += torch.outer(one_earlier, same)
    value[:K] += read_code
    output[:, :K] = write_size * before

    query, key, value, output = _first_head(second)
    query[slow] += read_code
    key[slow] += before.T
    value[:K] += read_code
    output[:, :K] = write_size * (read_code.T if config.tie_embeddings else after)
    if not config.tie_embeddings:
        codes = torch.nn.functional.normalize(embeddings @ code, dim=1)  # (V, K)
        model.head.weight.add_(COPY_LOGIT / math.sqrt(config.n_embd) * codes @ after.T)
    for name, weight in model.named_parameters():
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            weight.fill_(QK_GAIN)
    return True


def _parts(
    width: int, code_size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Orthonormal columns, (C), (C, K), (C, K) and (C, the rest)."""
    basis = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
    same, before, after, token = basis.split(
        [1, code_size, code_size, width - 1 - 2 * code_size], dim=1
    )
    return same[:, 0], before, after, token


def _first_head(attention: MultiHeadAttention) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Its rows of query, key and value (D, C) and its columns of the output (C, D), what was drawn there made faint."""
    H, G, D = attention.sizes
    query, key, value = (
        attention.qkv.weight[head * D : (head + 1) * D].mul_(LEFT_OF_THE_DRAWN)
        for head in (0, H, H + G)
    )
    return query, key, value, attention.proj.weight[:, :D]


def _neighbours(frequencies: Tensor, half: int) -> tuple[Tensor, Tensor]:
    """Query and key (D) of a head that looks one token back: the key is the query, turned on by one position."""
    fast = min(FASTEST_DIMENSIONS, half)
    query, key = torch.zeros(2 * half), torch.zeros(2 * half)
    query[:fast] = 1.0
    key[:fast], key[half : half + fast] = frequencies[:fast].cos(), frequencies[:fast].sin()
    return query, key
