"""Log-probabilities of the tokens of a prompt: what `echo` with `logprobs` reports.

One pass over the whole prompt without a KV cache, as `evaluate` does it, so that both give the same
figures.

Shapes: T tokens of the prompt, C width, V vocabulary size, K most likely tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from simplellm.device import failures_reported, fast_float32
from simplellm.inference.sampler import Sampler
from simplellm.model.scoring import MAX_LOGITS
from simplellm.server.token_info import TopTokens

Score = tuple[float, TopTokens]  # log-probability of a token, and the most likely tokens there


@torch.inference_mode()
def prompt_scores(sampler: Sampler, ids: Sequence[int], top: int) -> list[Score]:
    """A score for each of `ids[1:]`. `ids` fit the context of the model."""
    if len(ids) < 2:
        return []
    model = sampler.model
    device = model.token_embedding.weight.device
    n_rows = max(MAX_LOGITS // model.config.vocab_size, 1)
    scores: list[Score] = []
    with failures_reported(device), fast_float32(device):
        block = torch.tensor([ids], device=device)  # (1, T)
        hidden = model.hidden(block[:, :-1])[0]  # (T - 1, C)
        for rows, targets in zip(hidden.split(n_rows), block[0, 1:].split(n_rows), strict=True):
            scores += _scores(model.logits(rows).float(), targets, top)
    return scores


def _scores(logits: Tensor, targets: Tensor, top: int) -> list[Score]:
    """Scores of `targets` (T) by `logits` (T, V)."""
    logs = torch.log_softmax(logits, -1)  # (T, V)
    own = logs.gather(1, targets[:, None])[:, 0].tolist()
    best = logs.topk(min(top, logs.shape[1]))  # (T, K)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    tops = [tuple(zip(tokens, values, strict=True)) for tokens, values in pairs]
    return list(zip(own, tops, strict=True))
