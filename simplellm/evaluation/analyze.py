"""What a model thinks: which tokens may come next, how likely those of a reply were, and where it looked.

Shapes: L layers, H heads, G key/value heads, T tokens, D head size, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from simplellm.config.sampling import SamplingParams
from simplellm.data.tokenizer import END_OF_TEXT, TextStream, Tokenizer
from simplellm.device import failures_reported
from simplellm.inference.filters import PENALTY_WINDOW, distribution
from simplellm.inference.reply import Reply, StreamedToken, token_statistics
from simplellm.inference.sampler import Sampler
from simplellm.model.attention import MultiHeadAttention
from simplellm.model.block import TransformerBlock
from simplellm.model.transformer import SimpleLLM


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


def candidates(
    sampler: Sampler, ids: Sequence[int], params: SamplingParams, top: int
) -> list[Candidate]:
    """The `top` most likely tokens after `ids`, most likely first."""
    logits = np.array(sampler.next_logits(list(ids)))
    tokens, after = distribution(logits, list(ids)[-PENALTY_WINDOW:], params)
    sampling = dict(zip(tokens.tolist(), after.tolist(), strict=True))
    probabilities = torch.from_numpy(logits).softmax(0)
    best = probabilities.topk(min(top, len(probabilities))).indices.tolist()
    return [
        Candidate(
            token=token,
            text=sampler.tokenizer.decode([token]) or END_OF_TEXT,
            probability=float(probabilities[token]),
            kept=token in sampling,
            sampling_probability=sampling.get(token, 0.0),
        )
        for token in best
    ]


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """The text of one token; bytes that are only part of a character come as `\\xed`."""
    if token == tokenizer.end_of_text:
        return END_OF_TEXT
    return tokenizer.token_bytes(token).decode("utf-8", "backslashreplace")


def character_spans(tokenizer: Tokenizer, ids: Sequence[int]) -> Iterator[tuple[str, int, int]]:
    """`ids` as pieces of whole characters: the text of each, and the first and behind the last of its tokens."""
    stream, first = TextStream(tokenizer), 0
    for last, token in enumerate(ids, 1):
        text = (
            stream.finish() + END_OF_TEXT if token == tokenizer.end_of_text else stream.push(token)
        )
        text += stream.finish() if last == len(ids) else ""
        if text or last == len(ids):
            yield text, first, last
            first = last


# ---------------------------------------------------------------- a reply


@dataclass(frozen=True)
class TokenProbability:
    """A token of a reply and what the model thought of it."""

    token: str
    id: int
    probability: float  # by the model alone: softmax at temperature 1
    rank: int  # 1 is the likeliest
    entropy: float  # of the model's distribution here, in nats

    def to_mapping(self) -> dict[str, Any]:
        return asdict(self)


def token_probabilities(
    sampler: Sampler, reply: Reply, pieces: Iterable[StreamedToken]
) -> list[TokenProbability]:
    """One for each of `reply.new_ids`: those of the pieces that came, and of the end of the text, which is no piece."""
    tokenizer = sampler.tokenizer
    found = [
        TokenProbability(
            token_text(tokenizer, piece.token),
            piece.token,
            piece.probability,
            piece.rank,
            piece.entropy,
        )
        for piece in pieces
        if piece.token is not None
    ]
    for number in range(len(found), len(reply.new_ids)):
        token = reply.new_ids[number]
        logits = sampler.next_logits([*reply.prompt_ids, *reply.new_ids[:number]])
        found.append(
            TokenProbability(token_text(tokenizer, token), token, *token_statistics(logits, token))
        )
    return found


# ---------------------------------------------------------------- attention


@torch.inference_mode()
def attention(model: SimpleLLM, ids: Sequence[int]) -> Tensor:
    """How much the last of `ids` looks at each of them, (L, H, T) on the CPU: for each head the sum is 1.

    softmax(q k / sqrt(D)) of the queries and keys that the model itself computes.
    """
    looks: list[Tensor] = []

    def look(module: MultiHeadAttention, inputs: tuple[Any, ...]) -> None:
        q, k, _ = module.heads(inputs[0], inputs[1])  # (1, H, T, D), (1, G, T, D)
        H, G, D = module.sizes
        keys = k[0].repeat_interleave(H // G, dim=0)  # (H, T, D)
        scores = (keys @ q[0, :, -1, :, None]).squeeze(-1).float() / math.sqrt(D)  # (H, T)
        looks.append(scores.softmax(-1).cpu())

    device = model.token_embedding.weight.device
    handles = [
        cast(TransformerBlock, block).attention.register_forward_pre_hook(look)
        for block in model.blocks
    ]
    try:
        with failures_reported(device):
            model.hidden(torch.tensor([list(ids)], device=device))
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(looks)
