"""A reply as a token stream with complete characters, stop sequences and statistics.

Shapes: V vocabulary size.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from simplellm.config.sampling import SamplingParams
from simplellm.data.tokenizer import TextStream, Tokenizer
from simplellm.inference.filters import PENALTY_WINDOW, Array, distribution, draw
from simplellm.inference.stop import StopFilter

SEED_BITS = 63
LOWEST_LOG = -1e30  # stands for log(0), which must not be multiplied by 0
ChooseToken = Callable[[Array, list[int]], int]  # from logits (V,) and the ids before the token


class LogitsSource(Protocol):
    """What a reply needs: the logits after some ids, a tokenizer, and the ids that end a reply."""

    tokenizer: Tokenizer
    end_ids: frozenset[int]

    def next_logits(self, ids: Sequence[int]) -> Array: ...


class StreamedToken(NamedTuple):
    """One token of a reply. `token` is None for text that was held back until the end of the reply,
    and for a step of a beam search, which has no text."""

    token: int | None
    text: str  # complete characters only; empty while a character is incomplete
    probability: float = 1.0  # of this token by softmax at temperature 1, without filters
    rank: int = 1  # 1: the model's most likely token
    entropy: float = 0.0  # of the model's distribution at temperature 1, in nats


class Reply:
    """An iterator over the tokens of one sampled reply, and its state so far."""

    def __init__(self, source: LogitsSource, ids: list[int], params: SamplingParams) -> None:
        self.prompt_ids = ids
        self.new_ids: list[int] = []
        self.text = ""  # the text that was yielded, without a stop sequence
        self.params = params
        self.seed = random_seed() if params.seed is None else params.seed
        self.stop_reason = "interrupted"  # "length", "stop" or "end_of_text" once it is complete
        self.seconds = 0.0
        self._source = source
        self._tokens = self._generate()

    def __iter__(self) -> Iterator[StreamedToken]:
        for token in self._tokens:
            self.text += token.text
            yield token

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end the reply."""
        return self._source.end_ids

    @property
    def tokens_per_second(self) -> float:
        return len(self.new_ids) / self.seconds if self.seconds else 0.0

    def _generate(self) -> Iterator[StreamedToken]:
        started_at = time.perf_counter()
        generator = np.random.default_rng(self.seed)

        def sample(logits: Array, ids: list[int]) -> int:
            return draw(*distribution(logits, ids[-PENALTY_WINDOW:], self.params), generator)

        yield from self._stream(sample, self.params.max_new_tokens, started_at)

    def _stream(
        self, choose: ChooseToken, max_new_tokens: int, started_at: float
    ) -> Iterator[StreamedToken]:
        """Append tokens from `choose` until the reply ends; yield each and set `stop_reason`."""
        tokenizer = self._source.tokenizer
        stream, stop_filter = TextStream(tokenizer), StopFilter(self.params.stop)
        ids = list(self.prompt_ids)
        for _ in range(max_new_tokens):
            logits = self._source.next_logits(ids)
            token = choose(logits, ids)
            ids.append(token)
            self.new_ids.append(token)
            self.seconds = time.perf_counter() - started_at
            if token in self._source.end_ids:
                self.stop_reason = "end_of_text"
                break
            text = stop_filter.push(stream.push(token))
            if stop_filter.has_stopped:
                self.stop_reason = "stop"
            elif len(self.new_ids) == max_new_tokens:
                self.stop_reason = "length"
            yield StreamedToken(token, text, *token_statistics(logits, token))
            if stop_filter.has_stopped:
                return
        # the bytes of a character that is incomplete at the end are left out of the text
        if text := stop_filter.finish():
            yield StreamedToken(None, text)


@np.errstate(over="ignore")  # the difference of two finite numbers may be minus infinity
def token_statistics(logits: Array, token: int) -> tuple[float, int, float]:
    """Probability and rank of `token` in softmax(logits), and the entropy of softmax(logits)."""
    shifted = logits - logits.max()
    weights = np.exp(shifted)
    total = float(weights.sum())
    entropy = math.log(total) - float(weights.dot(np.maximum(shifted, LOWEST_LOG))) / total
    return (
        float(weights[token]) / total,
        1 + int(np.count_nonzero(shifted > shifted[token])),
        entropy,
    )


def random_seed() -> int:
    return secrets.randbits(SEED_BITS)
