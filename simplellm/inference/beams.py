"""Beam search: the most likely reply instead of a sampled one.

Several continuations are extended together; each step keeps the most likely ones. The rules are
those of `transformers` with length_penalty=1 and early_stopping=False.

Shapes: N beams, V vocabulary size.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from simplellm.config.sampling import SamplingParams
from simplellm.errors import SamplingError
from simplellm.inference.batch import BatchDecoder
from simplellm.inference.reply import Reply, StreamedToken
from simplellm.inference.sampler import Sampler

IGNORED_SETTINGS = (  # beam search is deterministic and uses the unfiltered distribution
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "seed",
)


@dataclass(frozen=True)
class Beam:
    """A continuation of the prompt."""

    ids: list[int]
    log_probability: float  # sum over its tokens, by softmax at temperature 1

    @property
    def score(self) -> float:
        """Mean log probability per token: compares finished beams of different lengths."""
        return self.log_probability / len(self.ids)


def beam_search(sampler: Sampler, ids: Sequence[int], params: SamplingParams) -> Beam:
    """The best continuation of `ids` with at most `params.max_new_tokens` tokens."""
    steps = search_steps(sampler, ids, params)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            best: Beam = end.value
            return best


def search_steps(
    sampler: Sampler, ids: Sequence[int], params: SamplingParams
) -> Generator[StreamedToken, None, Beam]:
    """`beam_search` that yields an empty token after each step, so that it can be interrupted."""
    n, prompt = params.num_beams, list(ids)
    decoder = BatchDecoder(sampler, len(prompt) + params.max_new_tokens)
    running, parents, finished = [Beam([], 0.0)], [0], list[Beam]()
    n_candidates = n * max(2, 1 + len(sampler.end_ids))  # so that n of them do not end the text
    for step in range(1, params.max_new_tokens + 1):
        logits = decoder.next_logits([prompt + beam.ids for beam in running], parents)
        found = _extend(running, logits.numpy(), n_candidates)
        is_last = step == params.max_new_tokens
        ended = [is_last or beam.ids[-1] in sampler.end_ids for _, beam in found]
        finished += [
            beam for (_, beam), has_ended in zip(found[:n], ended, strict=False) if has_ended
        ]
        finished = sorted(finished, key=lambda beam: -beam.score)[:n]
        alive = [pair for pair, has_ended in zip(found, ended, strict=True) if not has_ended][:n]
        if is_last or not alive or (len(finished) == n and alive[0][1].score <= finished[-1].score):
            break
        parents = [parent for parent, _ in alive]
        running = [beam for _, beam in alive]
        yield StreamedToken(None, "")
    return finished[0]


def _extend(beams: list[Beam], logits: np.ndarray, n: int) -> list[tuple[int, Beam]]:
    """The n most likely beams with one more token, best first, each with its parent's index."""
    log_probabilities = _log_softmax(logits) + np.array(
        [[beam.log_probability] for beam in beams], np.float32
    )  # (N, V)
    flat = log_probabilities.ravel()
    n = min(n, len(flat))
    best = np.argpartition(-flat, n - 1)[:n]
    best = best[np.argsort(-flat[best], kind="stable")]
    pairs = [divmod(int(index), logits.shape[1]) for index in best]
    return [
        (parent, Beam([*beams[parent].ids, token], float(log_probabilities[parent, token])))
        for parent, token in pairs
    ]


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log probabilities (N, V) of logits (N, V); SamplingError if a highest logit is not finite."""
    highest = logits.max(-1, keepdims=True)
    if not np.isfinite(highest).all():  # the maximum is NaN if any logit is NaN
        raise SamplingError(
            f"the model gave logits that cannot be searched (the highest is {float(highest.max())})"
        )
    shifted = logits - highest
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


class BeamReply(Reply):
    """A reply by beam search. Each step of the search yields an empty token, its end yields all."""

    def __init__(self, sampler: Sampler, ids: list[int], params: SamplingParams) -> None:
        super().__init__(sampler, ids, params)
        self.seed = params.seed or 0  # beam search is deterministic
        self._sampler = sampler

    def _generate(self) -> Iterator[StreamedToken]:
        started_at = time.perf_counter()
        best = yield from search_steps(self._sampler, self.prompt_ids, self.params)
        remaining = iter(best.ids)
        yield from self._stream(lambda logits, ids: next(remaining), len(best.ids), started_at)


def reply_to(sampler: Sampler, ids: Sequence[int], params: SamplingParams) -> Reply:
    """A reply to `ids`; iterate over it. By beam search if `num_beams` > 1, sampled otherwise."""
    if params.num_beams > 1:
        return BeamReply(sampler, list(ids), params)
    return sampler.stream(ids, params)
