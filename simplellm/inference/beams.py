"""Beam search: the most likely text, not a likely one.

Several beginnings are kept side by side and lengthened together; each step keeps those that are the most likely so far.
The rules are those of `transformers` with length_penalty 1 and early_stopping False.

Shapes: N beams, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from simplellm.config.sampling import SamplingParams
from simplellm.data.tokenizer import TextStream
from simplellm.errors import SamplingError
from simplellm.inference.batch import Texts
from simplellm.inference.sampler import Piece, Reply, Sampler, StopGate, judgement

UNHEARD = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "seed",
)  # settings of drawing: nothing is drawn


@dataclass(frozen=True)
class Beam:
    """A continuation, and how likely it is."""

    ids: list[int]
    log_probability: float  # of all its tokens together, by the model alone

    @property
    def score(self) -> float:
        """Mean log probability of a token: what finished beams of different lengths are compared by."""
        return self.log_probability / len(self.ids)


def beam_search(sampler: Sampler, ids: Sequence[int], params: SamplingParams) -> Beam:
    """The best continuation of `ids` that `params.num_beams` beams find, of at most `params.max_new_tokens` tokens."""
    steps = search_steps(sampler, ids, params)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            best: Beam = end.value
            return best


def search_steps(
    sampler: Sampler, ids: Sequence[int], params: SamplingParams
) -> Generator[Piece, None, Beam]:
    """`beam_search` with an empty piece after each step, so that it can be left there; returns the best."""
    n, prompt = params.num_beams, list(ids)
    texts = Texts(sampler, len(prompt) + params.max_new_tokens)
    running, parents, finished = [Beam([], 0.0)], [0], list[Beam]()
    for step in range(1, params.max_new_tokens + 1):
        logits = texts.next_logits([prompt + beam.ids for beam in running], parents)
        found = _lengthened(running, logits.numpy(), 2 * n)  # at most half of them end the text
        is_last = step == params.max_new_tokens
        ended = [is_last or beam.ids[-1] == sampler.tokenizer.end_of_text for _, beam in found]
        finished += [
            beam for (_, beam), has_ended in zip(found[:n], ended, strict=False) if has_ended
        ]
        finished = sorted(finished, key=lambda beam: -beam.score)[:n]
        going_on = [pair for pair, has_ended in zip(found, ended, strict=True) if not has_ended][:n]
        if is_last or (len(finished) == n and going_on[0][1].score <= finished[-1].score):
            break
        parents, running = [parent for parent, _ in going_on], [beam for _, beam in going_on]
        yield Piece(None, "")
    return finished[0]


def _lengthened(beams: list[Beam], logits: np.ndarray, n: int) -> list[tuple[int, Beam]]:
    """The n most likely of all beams with one more token, best first, each with the number of the beam it comes from."""
    log_probabilities = _log_softmax(logits) + np.array(
        [[beam.log_probability] for beam in beams], np.float32
    )  # (N, V)
    flat = log_probabilities.ravel()
    n = min(n, len(flat))
    best = np.argpartition(-flat, n - 1)[:n]
    best = best[np.argsort(-flat[best], kind="stable")]
    places = [divmod(int(place), logits.shape[1]) for place in best]
    return [
        (parent, Beam([*beams[parent].ids, token], float(log_probabilities[parent, token])))
        for parent, token in places
    ]


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log probabilities of (N, V); SamplingError where there are none."""
    highest = logits.max(-1, keepdims=True)
    if not np.isfinite(highest).all():  # the maximum is NaN where any is
        raise SamplingError(
            f"the model gave logits that cannot be searched (the highest is {float(highest.max())})"
        )
    shifted = logits - highest
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


class BeamReply(Reply):
    """A reply that is searched: its tokens come all at once when the search has ended.

    Until then an empty piece without a token comes from each step, so that the search can be left.
    """

    def __init__(self, sampler: Sampler, ids: list[int], params: SamplingParams) -> None:
        super().__init__(sampler, ids, params)
        self.seed = params.seed or 0  # nothing is drawn: every seed gives this reply

    def _generate(self) -> Iterator[Piece]:
        started_at = time.perf_counter()
        best = yield from search_steps(self._sampler, self.prompt_ids, self.params)
        tokenizer, ids = self._sampler.tokenizer, list(self.prompt_ids)
        stream, gate = TextStream(tokenizer), StopGate(self.params.stop)
        for token in best.ids:
            logits = self._sampler.next_logits(ids)
            ids.append(token)
            self.new_ids.append(token)
            self.seconds = time.perf_counter() - started_at
            if token == tokenizer.end_of_text:
                break
            yield Piece(token, gate.push(stream.push(token)), *judgement(logits, token))
            if gate.is_shut:
                self.stop_reason = "stop"
                return
        self.stop_reason = "end_of_text" if best.ids[-1] == tokenizer.end_of_text else "length"
        rest = gate.push(stream.finish())
        if gate.is_shut:
            self.stop_reason = "stop"
        if rest := rest + gate.finish():
            yield Piece(None, rest)


def reply_to(sampler: Sampler, ids: Sequence[int], params: SamplingParams) -> Reply:
    """A reply to `ids`, to be iterated over: searched where there are beams, drawn otherwise."""
    return (
        BeamReply(sampler, list(ids), params)
        if params.num_beams > 1
        else sampler.stream(ids, params)
    )
