"""Sampling filters and the draw of a token: pure functions of logits.

`distribution` applies the filters in a fixed order: repetition penalty, top-k, temperature, top-p,
min-p. `draw` then selects one of the tokens that are left.

Shapes: V vocabulary size, K tokens kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from simplellm.config.sampling import SamplingParams
from simplellm.errors import SamplingError

PENALTY_WINDOW = 64  # number of newest tokens that the repetition penalty applies to
GREEDY_BELOW = 1e-5  # smaller temperatures would overflow float32: the most likely token is taken
Array = np.ndarray


def penalize_repetition(logits: Array, recent: Sequence[int], penalty: float) -> Array:
    """Logits (V,) with lower values for the `recent` tokens (CTRL, Keskar et al. 2019).

    Positive logits are divided by `penalty`, negative ones are multiplied by it.
    """
    if penalty == 1 or not recent:
        return logits
    tokens = sorted(set(recent))
    limits = np.finfo(np.float32)
    factor = np.float32(max(penalty, limits.tiny))  # a smaller number would be 0 in float32
    seen = logits[tokens]
    with np.errstate(over="ignore"):
        penalized = np.where(seen < 0, seen * factor, seen / factor).clip(-limits.max, limits.max)
    result = logits.copy()
    result[tokens] = np.where(np.isinf(seen), seen, penalized)
    return result


def keep_top_k(scores: Array, k: int) -> Array:
    """Indices (K,) of the k highest `scores` (V,), and of ties with the lowest of them.

    k = 0 keeps all.
    """
    if k == 0 or k >= len(scores):
        return np.arange(len(scores))
    lowest = np.partition(scores, len(scores) - k)[len(scores) - k]
    return np.flatnonzero(scores >= lowest)


def keep_top_p(scores: Array, p: float) -> Array:
    """Indices (K,) of the smallest set of highest `scores` (V,) with total probability p.

    Nucleus sampling, Holtzman et al. 2019.
    """
    if p >= 1:
        return np.arange(len(scores))
    ascending = np.argsort(scores, kind="stable")
    cumulative = np.cumsum(softmax(scores[ascending]), dtype=np.float64).astype(np.float32)
    first = min(int(np.searchsorted(cumulative, np.float32(1 - p), side="right")), len(scores) - 1)
    return ascending[first:]


def keep_min_p(scores: Array, p: float) -> Array:
    """Indices (K,) of `scores` (V,) with at least `p` times the highest probability.

    Min-p sampling, Nguyen et al. 2024.
    """
    probabilities = softmax(scores)
    return np.flatnonzero(probabilities >= np.float32(p) * probabilities.max())


def distribution(
    logits: Array, recent: Sequence[int], params: SamplingParams
) -> tuple[Array, Array]:
    """Token ids (K,) that the settings keep of `logits` (V,) float32, and their probabilities (K,).

    Top-k precedes the temperature, which does not change the order: the later filters then cost K
    operations instead of V. Raises SamplingError if the highest logit is not finite.
    """
    highest = logits.max()
    if not math.isfinite(highest):  # the maximum is NaN if any logit is NaN
        raise SamplingError(
            f"the model gave logits that cannot be sampled from (the highest is {float(highest)})"
        )
    scores = penalize_repetition(logits, recent, params.repetition_penalty)
    if params.temperature < GREEDY_BELOW:
        return scores.argmax(axis=0, keepdims=True), np.ones(1, np.float32)
    tokens = keep_top_k(scores, params.top_k)
    scores = scores[tokens]
    with np.errstate(over="ignore"):  # minus infinity is correct: the probability is 0
        scores -= scores.max()
        scores /= np.float32(params.temperature)
    if params.top_p < 1:
        kept = keep_top_p(scores, params.top_p)
        tokens, scores = tokens[kept], scores[kept]
    if params.min_p > 0:
        kept = keep_min_p(scores, params.min_p)
        tokens, scores = tokens[kept], scores[kept]
    return tokens, softmax(scores)


def draw(tokens: Array, probabilities: Array, generator: np.random.Generator) -> int:
    """One of `tokens` (K,), selected by one uniform random number (inverse transform sampling)."""
    if len(tokens) == 1:
        return int(tokens[0])
    cumulative = np.cumsum(probabilities, dtype=np.float64)
    index = int(cumulative.searchsorted(generator.random() * cumulative[-1], side="right"))
    return int(tokens[min(index, len(tokens) - 1)])


def softmax(scores: Array) -> Array:
    """Probabilities (K,) float32 of `scores` (K,)."""
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    return weights
