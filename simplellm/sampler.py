"""Drawing text from a model, one token at a time.

Logits go through pure filters in a fixed order (penalty, temperature, top-k, top-p, min-p), and one
token is drawn from what is kept. A stream yields each token as soon as it is known.

Shapes: V vocabulary, K tokens kept.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from simplellm.config import SamplingParams
from simplellm.errors import SamplingError
from simplellm.model import KVCache, SimpleLLM
from simplellm.tokenizer import TextStream, Tokenizer

PENALTY_WINDOW = 64  # tokens looked back on by the repetition penalty
GREEDY_BELOW = 1e-5  # temperatures under this would overflow float32: the most likely token is taken
SEED_BITS = 63


@dataclass(frozen=True)
class Piece:
    """One token of a reply, or what was held back at its end (`token` is None then)."""

    token: int | None
    text: str  # whole characters only: empty while a character is not complete
    probability: float = 1.0  # of this token by the model alone: softmax at temperature 1
    rank: int = 1  # 1 is the token the model thought most likely
    entropy: float = 0.0  # of the model's distribution here, in nats


# ---------------------------------------------------------------- filters: pure functions of logits


def penalize(logits: Tensor, recent: Sequence[int], penalty: float) -> Tensor:
    """Logits (V,) with those of the `recent` tokens divided by `penalty` where positive, else multiplied (CTRL, 2019)."""
    if penalty == 1 or not recent:
        return logits
    tokens = torch.tensor(sorted(set(recent)), device=logits.device)
    seen = logits[tokens]
    penalized = torch.where(seen < 0, seen * penalty, seen / penalty)
    limit = torch.finfo(logits.dtype).max
    return logits.index_copy(0, tokens, torch.where(seen.isinf(), seen, penalized.clamp(-limit, limit)))


def keep_top_k(scores: Tensor, k: int) -> Tensor:
    """Ids (K,) of the k highest of `scores` (V,), and of those that equal the lowest of them; 0 keeps all."""
    if k == 0 or k >= len(scores):
        return torch.arange(len(scores), device=scores.device)
    lowest = scores.topk(k).values[-1]
    return (scores >= lowest).nonzero().flatten()


def keep_top_p(scores: Tensor, p: float) -> Tensor:
    """Places (K,) in `scores` of the likeliest that together have probability p (nucleus, Holtzman et al. 2019)."""
    if p >= 1:
        return torch.arange(len(scores), device=scores.device)
    ascending, places = scores.sort(stable=True)
    unlikely = ascending.softmax(0).cumsum(0) <= 1 - p
    unlikely[-1] = False
    return places[~unlikely]


def keep_min_p(scores: Tensor, p: float) -> Tensor:
    """Places (K,) in `scores` of those at least `p` times as likely as the likeliest (Nguyen et al. 2024)."""
    probabilities = scores.softmax(0)
    return (probabilities >= p * probabilities.max()).nonzero().flatten()


def distribution(logits: Tensor, recent: Sequence[int], params: SamplingParams) -> tuple[Tensor, Tensor]:
    """What the settings make of `logits` (V,) float32: token ids (K,) and the probability of each.

    Raises SamplingError for NaN, infinity, or nothing but minus infinity.
    """
    highest = logits.max()
    if not bool(torch.isfinite(highest)):  # the maximum is NaN where any is
        raise SamplingError(f"the model gave logits that cannot be drawn from (the highest is {float(highest)})")
    scores = penalize(logits, recent, params.repetition_penalty)
    if params.temperature < GREEDY_BELOW:
        return scores.argmax(keepdim=True), torch.ones(1, device=logits.device)
    scores = (scores - scores.max()) / params.temperature
    tokens = keep_top_k(scores, params.top_k)
    scores = scores[tokens]
    if params.top_p < 1:
        kept = keep_top_p(scores, params.top_p)
        tokens, scores = tokens[kept], scores[kept]
    if params.min_p > 0:
        kept = keep_min_p(scores, params.min_p)
        tokens, scores = tokens[kept], scores[kept]
    return tokens, scores.softmax(0)


def draw(tokens: Tensor, probabilities: Tensor, generator: torch.Generator) -> int:
    """One of `tokens` (K,), by inverting the cumulative distribution at one uniform number."""
    if len(tokens) == 1:
        return int(tokens[0])
    cumulative = probabilities.double().cumsum(0)
    uniform = torch.rand(1, generator=generator, dtype=torch.float64).to(cumulative.device) * cumulative[-1]
    place = torch.searchsorted(cumulative, uniform, right=True).clamp_(max=len(tokens) - 1)
    return int(tokens[place])


def random_seed() -> int:
    return secrets.randbits(SEED_BITS)


# ---------------------------------------------------------------- the stream


class Sampler:
    """A model with a cache. What two prompts have in common at their beginning is not computed twice."""

    def __init__(self, model: SimpleLLM, tokenizer: Tokenizer) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.block_size = model.config.block_size
        self._cache = KVCache(model.config, batch_size=1, like=model.token_embedding.weight)
        self._cached_ids: list[int] = []

    def encode(self, prompt: str) -> list[int]:
        """Ids of a prompt; an empty one is the beginning of a document."""
        return self.tokenizer.encode(prompt) or [self.tokenizer.end_of_text]

    @torch.inference_mode()
    def next_logits(self, ids: Sequence[int]) -> Tensor:
        """Logits (V,) float32 on the CPU of the token after `ids`, of which the newest that fit are looked at.

        When the context is full its newest half is kept and read again.
        """
        context = list(ids)
        if len(context) > self.block_size:
            context = self._newest(context)
        known = self._known(context)
        self._cache.length = known
        new = torch.tensor([context[known:]], device=self._cache.keys.device)
        hidden = self.model.hidden(new, self._cache)
        self._cached_ids = context
        return self.model.logits(hidden[0, -1]).float().cpu()

    def stream(self, ids: Sequence[int], params: SamplingParams) -> Reply:
        """A reply to `ids`, to be iterated over. Without a seed in `params` it gets a random one."""
        return Reply(self, list(ids), params)

    def _newest(self, context: list[int]) -> list[int]:
        """The newest tokens of a context that is too long, aligned so that the next tokens find it in the cache."""
        half = max(self.block_size // 2, 1)
        dropped = -(-(len(context) - self.block_size) // (self.block_size - half)) * (self.block_size - half)
        return context[dropped:]

    def _known(self, context: list[int]) -> int:
        """How many tokens at the beginning of `context` are in the cache; the last one is always read again."""
        limit = min(len(self._cached_ids), len(context) - 1)
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
        generator = torch.Generator().manual_seed(self.seed)
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
            yield Piece(token, text, *_thoughts(logits, token))
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


def _thoughts(logits: Tensor, token: int) -> tuple[float, int, float]:
    """Probability and rank of `token`, and the entropy in nats, of softmax(logits)."""
    log_probabilities = logits.log_softmax(0)
    probabilities = log_probabilities.exp()
    entropy = -(probabilities * log_probabilities.clamp(min=-1e30)).sum()
    return float(probabilities[token]), 1 + int((logits > logits[token]).sum()), float(entropy)
