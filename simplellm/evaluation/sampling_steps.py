"""What each sampling setting does to the next token: the filters applied one after another.

Shapes: V vocabulary size, K candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from simplellm.config.sampling import SamplingParams
from simplellm.data.tokenizer import Tokenizer
from simplellm.evaluation.analyze import token_text
from simplellm.inference.filters import PENALTY_WINDOW, Array, distribution, softmax
from simplellm.storage.json_files import JsonObject

# In the order in which each of them changes the probabilities that the next one sees.
STEPS = ("repetition_penalty", "temperature", "top_k", "top_p", "min_p")
NO_EFFECT = SamplingParams(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0)


@dataclass(frozen=True)
class Step:
    """One setting. n_kept: tokens that are left after it and the settings before it."""

    setting: str
    value: float
    n_kept: int


@dataclass(frozen=True)
class TracedCandidate:
    """A possible next token and its probability after each step.

    probability: softmax at temperature 1, without filters. rank: 1 is the most likely token.
    probabilities: after each of STEPS; 0 where it is removed. removed_by: the step that removed it.
    """

    id: int
    text: str
    bytes: tuple[int, ...]
    probability: float
    rank: int
    probabilities: tuple[float, ...]
    removed_by: str | None


@dataclass(frozen=True)
class NextToken:
    """The most likely next tokens, most likely first, and the steps that change them."""

    steps: tuple[Step, ...]
    candidates: tuple[TracedCandidate, ...]

    def to_mapping(self) -> JsonObject:
        return asdict(self)


def trace_next_token(
    tokenizer: Tokenizer,
    logits: Array,
    ids: Sequence[int],
    params: SamplingParams,
    top: int,
    also: int | None = None,
) -> NextToken:
    """The `top` most likely tokens after `ids` by `logits` (V,), and the token `also`.

    SamplingError where no token can be sampled.
    """
    after = _after_each_step(logits, ids, params)  # (len(STEPS), V)
    before = softmax(logits)
    order = np.argsort(-logits, kind="stable")
    chosen = order[:top].tolist()
    if also is not None and also not in chosen:
        chosen.append(also)
    kept = after > 0
    steps = (
        Step(name, getattr(params, name), int(row.sum()))
        for name, row in zip(STEPS, kept, strict=True)
    )
    return NextToken(
        tuple(steps),
        tuple(
            TracedCandidate(
                id=token,
                text=token_text(tokenizer, token),
                bytes=tuple(tokenizer.token_bytes(token)),
                probability=float(before[token]),
                rank=1 + int(np.count_nonzero(logits > logits[token])),
                probabilities=tuple(after[:, token].tolist()),
                removed_by=_first_removal(kept[:, token]),
            )
            for token in chosen
        ),
    )


def _after_each_step(logits: Array, ids: Sequence[int], params: SamplingParams) -> Array:
    """Probabilities (len(STEPS), V) after each step, 0 for tokens that are removed."""
    settings = NO_EFFECT
    recent = list(ids)[-PENALTY_WINDOW:]
    rows = np.zeros((len(STEPS), len(logits)), np.float32)
    for name, row in zip(STEPS, rows, strict=True):
        settings = replace(settings, **{name: getattr(params, name)})
        tokens, probabilities = distribution(np.array(logits), recent, settings)
        # A kept token whose probability is too small for float32 is not a removed one.
        row[tokens] = np.maximum(probabilities, np.finfo(np.float32).tiny)
    return rows


def _first_removal(kept: Array) -> str | None:
    """The first of STEPS after which a token is missing; `kept` (len(STEPS),) is boolean."""
    return None if kept.all() else STEPS[int(np.argmin(kept))]
