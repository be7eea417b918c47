"""What a model thinks comes next: the candidates before and after the sampling settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from simplellm.config import SamplingParams
from simplellm.sampler import PENALTY_WINDOW, Sampler, distribution, softmax


@dataclass(frozen=True)
class Candidate:
    """A token that may come next."""

    token: int
    text: str
    probability: float  # by the model alone: softmax at temperature 1
    kept: bool  # whether the settings leave it in
    sampling_probability: float  # after the settings

    def to_mapping(self) -> dict[str, Any]:
        return asdict(self)


def candidates(sampler: Sampler, ids: Sequence[int], params: SamplingParams, top: int) -> list[Candidate]:
    """The `top` most likely tokens after `ids`, most likely first."""
    logits = sampler.next_logits(ids)
    probabilities = softmax(logits)
    tokens, after = distribution(logits, list(ids)[-PENALTY_WINDOW:], params)
    sampling = dict(zip(tokens.tolist(), after.tolist(), strict=True))
    best = np.argsort(-probabilities, kind="stable")[:top].tolist()
    return [
        Candidate(
            token=token,
            text=sampler.tokenizer.decode([token]) or "<|endoftext|>",
            probability=float(probabilities[token]),
            kept=token in sampling,
            sampling_probability=sampling.get(token, 0.0),
        )
        for token in best
    ]
