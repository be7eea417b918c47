"""Drawing text from a model, one token at a time.

Logits go through pure filters in a fixed order (penalty, temperature, top-k, top-p, min-p), and one
token is drawn from what is kept. A stream yields each token as soon as it is known.

Shapes: V vocabulary, K tokens kept.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from simplellm.config.sampling import SamplingParams
from simplellm.data.tokenizer import TextStream, Tokenizer
from simplellm.device import failures_reported
from simplellm.errors import SamplingError
from simplellm.inference.decoder import Decoder
from simplellm.model.transformer import KVCache, SimpleLLM

PENALTY_WINDOW = 64  # tokens looked back on by the repetition penalty
GREEDY_BELOW = (
    1e-5  # temperatures under this would overflow float32: the most likely token is taken
)
SEED_BITS = 63
LEAST_LOG = -1e30  # stands for the log of 0 where it is multiplied by 0
Array = np.ndarray


class Piece(NamedTuple):
    """One token of a reply, or what was held back at its end (`token` is None then)."""

    token: int | None
    text: str  # whole characters only: empty while a character is not complete
    probability: float = 1.0  # of this token by the model alone: softmax at temperature 1
    rank: int = 1  # 1 is the token the model thought most likely
    entropy: float = 0.0  # of the model's distribution here, in nats


# ---------------------------------------------------------------- filters: pure functions of logits


def penalize(logits: Array, recent: Sequence[int], penalty: float) -> Array:
    """Logits (V,) with those of the `recent` tokens divided by `penalty` where positive, else multiplied (CTRL, 2019)."""
    if penalty == 1 or not recent:
        return logits
    tokens, limits = sorted(set(recent)), np.finfo(np.float32)
    seen, factor = (
        logits[tokens],
        np.float32(max(penalty, limits.tiny)),
    )  # less would be 0 in float32
    with np.errstate(over="ignore"):
        penalized = np.where(seen < 0, seen * factor, seen / factor).clip(-limits.max, limits.max)
    result = logits.copy()
    result[tokens] = np.where(np.isinf(seen), seen, penalized)
    return result


def keep_top_k(scores: Array, k: int) -> Array:
    """Ids (K,) of the k highest of `scores` (V,), and of those that equal the lowest of them; 0 keeps all."""
    if k == 0 or k >= len(scores):
        return np.arange(len(scores))
    lowest = np.partition(scores, len(scores) - k)[len(scores) - k]
    return np.flatnonzero(scores >= lowest)


def keep_top_p(scores: Array, p: float) -> Array:
    """Places (K,) in `scores` of the likeliest that together have probability p (nucleus, Holtzman et al. 2019)."""
    if p >= 1:
        return np.arange(len(scores))
    ascending = np.argsort(scores, kind="stable")
    cumulative = np.cumsum(softmax(scores[ascending]), dtype=np.float64).astype(np.float32)
    first = min(int(np.searchsorted(cumulative, np.float32(1 - p), side="right")), len(scores) - 1)
    return ascending[first:]


def keep_min_p(scores: Array, p: float) -> Array:
    """Places (K,) in `scores` of those at least `p` times as likely as the likeliest (Nguyen et al. 2024)."""
    probabilities = softmax(scores)
    return np.flatnonzero(probabilities >= np.float32(p) * probabilities.max())


def distribution(
    logits: Array, recent: Sequence[int], params: SamplingParams
) -> tuple[Array, Array]:
    """What the settings make of `logits` (V,) float32: token ids (K,) and the probability of each.

    The k highest come first: they are the same before and after the temperature, and all else then costs K, not V.
    Raises SamplingError for NaN, infinity, or nothing but minus infinity.
    """
    highest = logits.max()
    if not math.isfinite(highest):  # the maximum is NaN where any is
        raise SamplingError(
            f"the model gave logits that cannot be drawn from (the highest is {float(highest)})"
        )
    scores = penalize(logits, recent, params.repetition_penalty)
    if params.temperature < GREEDY_BELOW:
        return scores.argmax(axis=0, keepdims=True), np.ones(1, np.float32)
    tokens = keep_top_k(scores, params.top_k)
    scores = scores[tokens]
    with np.errstate(over="ignore"):  # minus infinity is right: such a token is not drawn
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
    """One of `tokens` (K,), by inverting the cumulative distribution at one uniform number."""
    if len(tokens) == 1:
        return int(tokens[0])
    cumulative = np.cumsum(probabilities, dtype=np.float64)
    place = int(cumulative.searchsorted(generator.random() * cumulative[-1], side="right"))
    return int(tokens[min(place, len(tokens) - 1)])


def softmax(scores: Array) -> Array:
    """exp(scores) over their sum, of (K,) float32."""
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    return weights


def random_seed() -> int:
    return secrets.randbits(SEED_BITS)


# ---------------------------------------------------------------- the stream


class Sampler:
    """A model with a cache. What two prompts have in common at their beginning is not computed twice."""

    def __init__(self, model: SimpleLLM, tokenizer: Tokenizer) -> None:
        weight = model.token_embedding.weight
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.block_size = model.config.block_size
        self._cache = KVCache(model.config, batch_size=1, like=weight)
        self._cached_ids: list[int] = []  # the cache holds the first `length` of them
        self._followed: Sequence[int] | None = None  # what was read last
        self._n_followed = 0
        is_plain = weight.device.type == "cpu" and weight.dtype == torch.float32
        self._decoder = Decoder(model, self._cache) if is_plain else None

    def probe(self) -> None:
        """Read a few tokens, the way a prompt and a reply are read: DeviceFailure where the device cannot."""
        end = self.tokenizer.end_of_text
        for length in (2, 3):
            self.next_logits([end] * length)

    def encode(self, prompt: str) -> list[int]:
        """Ids of a prompt; an empty one is the beginning of a document."""
        return self.tokenizer.encode(prompt) or [self.tokenizer.end_of_text]

    def next_logits(self, ids: Sequence[int]) -> Array:
        """Logits (V,) float32 of the token after `ids`, of which the newest that fit are looked at.

        When the context is full its newest half is kept and read again. The next call may overwrite what this one gave.
        A list that was given before and is longer by one token is taken to begin as it did: no reply compares its past.
        """
        if (
            ids is self._followed
            and len(ids) == self._n_followed + 1
            and self._cache.length < self.block_size
        ):
            new = [ids[-1]]
            self._cached_ids.append(ids[-1])
        else:
            context = list(ids) if len(ids) <= self.block_size else self.newest(list(ids))
            self._cache.length = self._known(context)
            new = context[self._cache.length :]
            self._cached_ids = context
        self._followed = None  # should reading be interrupted
        logits = self._read(new)
        self._followed, self._n_followed = ids, len(ids)
        return logits

    def stream(self, ids: Sequence[int], params: SamplingParams) -> Reply:
        """A reply to `ids`, to be iterated over. Without a seed in `params` it gets a random one."""
        return Reply(self, list(ids), params)

    def _read(self, new: list[int]) -> Array:
        return (
            self._decoder.read(new[0])
            if self._decoder is not None and len(new) == 1
            else self._read_all(new)
        )

    @torch.inference_mode()
    def _read_all(self, new: list[int]) -> Array:
        device = self._cache.keys.device
        with failures_reported(device):
            hidden = self.model.hidden(torch.tensor([new], device=device), self._cache)
            return self.model.logits(hidden[0, -1]).float().cpu().numpy()

    def newest(self, context: list[int]) -> list[int]:
        """The newest tokens of a context that is too long, aligned so that the next tokens find it in the cache."""
        half = max(self.block_size // 2, 1)
        dropped = -(-(len(context) - self.block_size) // (self.block_size - half)) * (
            self.block_size - half
        )
        return context[dropped:]

    def _known(self, context: list[int]) -> int:
        """How many tokens at the beginning of `context` are in the cache; the last one is always read again."""
        limit = min(len(self._cached_ids), self._cache.length, len(context) - 1)
        if self._cached_ids[:limit] == context[:limit]:
            return limit
        return next(i for i in range(limit) if self._cached_ids[i] != context[i])


class Reply:
    """An iterator over the pieces of one reply, and what is known of it so far."""

    def __init__(self, sampler: Sampler, ids: list[int], params: SamplingParams) -> None:
        self.prompt_ids = ids
        self.new_ids: list[int] = []
        self.text = ""  # what was yielded: without a stop text
        self.params = params
        self.seed = random_seed() if params.seed is None else params.seed
        self.stop_reason = "interrupted"  # until it ends by itself: length, stop or end_of_text
        self.seconds = 0.0
        self._sampler = sampler
        self._pieces = self._generate()

    def __iter__(self) -> Iterator[Piece]:
        for piece in self._pieces:
            self.text += piece.text
            yield piece

    @property
    def tokens_per_second(self) -> float:
        return len(self.new_ids) / self.seconds if self.seconds else 0.0

    def _generate(self) -> Iterator[Piece]:
        tokenizer = self._sampler.tokenizer
        generator = np.random.default_rng(self.seed)
        stream, gate = TextStream(tokenizer), StopGate(self.params.stop)
        ids, started_at = list(self.prompt_ids), time.perf_counter()
        while len(self.new_ids) < self.params.max_new_tokens:
            logits = self._sampler.next_logits(ids)
            token = draw(*distribution(logits, ids[-PENALTY_WINDOW:], self.params), generator)
            ids.append(token)
            self.new_ids.append(token)
            self.seconds = time.perf_counter() - started_at
            if token == tokenizer.end_of_text:
                self.stop_reason = "end_of_text"
                break
            text = gate.push(stream.push(token))
            yield Piece(token, text, *judgement(logits, token))
            if gate.is_shut:
                self.stop_reason = "stop"
                return
        else:
            self.stop_reason = "length"
        rest = gate.push(stream.finish())
        if gate.is_shut:
            self.stop_reason = "stop"
        if rest := rest + gate.finish():
            yield Piece(None, rest)


class StopGate:
    """Lets text through up to the first of the stop texts, however it is cut into pieces."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.is_shut = False

    def push(self, text: str) -> str:
        """What may be shown now: text that could still become a stop text is held back."""
        shown = ""
        for character in text if self._stops and not self.is_shut else "":
            shown += self._push_character(character)
            if self.is_shut:
                break
        return shown if self._stops else text

    def finish(self) -> str:
        """What was held back, now that no more text comes."""
        held, self._held = self._held, ""
        return held

    def _push_character(self, character: str) -> str:
        """One by one, so that the outcome cannot depend on how the text was cut: the stop that is whole first wins."""
        self._held += character
        whole = [len(stop) for stop in self._stops if self._held.endswith(stop)]
        if whole:
            shown, self._held, self.is_shut = self._held[: -max(whole)], "", True
            return shown
        keep = max(_overlap(self._held, stop) for stop in self._stops)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    return next((n for n in range(min(len(text), len(stop)), 0, -1) if text.endswith(stop[:n])), 0)


@np.errstate(over="ignore")  # the difference of two finite numbers may be minus infinity
def judgement(logits: Array, token: int) -> tuple[float, int, float]:
    """Probability and rank of `token`, and the entropy in nats, of softmax(logits)."""
    shifted = logits - logits.max()
    weights = np.exp(shifted)
    total = float(weights.sum())
    entropy = math.log(total) - float(weights.dot(np.maximum(shifted, LEAST_LOG))) / total
    return (
        float(weights[token]) / total,
        1 + int(np.count_nonzero(shifted > shifted[token])),
        entropy,
    )
