"""Analysis of a model: next-token candidates, probabilities of a reply, and attention weights.

Shapes: L layers, H heads, G key/value heads, T tokens, D head size.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from simplellm.config.sampling import SamplingParams
from simplellm.data.tokenizer import TextStream, Tokenizer
from simplellm.device import failures_reported
from simplellm.inference.filters import PENALTY_WINDOW, distribution
from simplellm.inference.reply import Reply, StreamedToken, token_statistics
from simplellm.inference.sampler import Sampler
from simplellm.model.attention import MultiHeadAttention
from simplellm.model.block import TransformerBlock
from simplellm.model.transformer import SimpleLLM
from simplellm.storage.json_files import JsonObject

ESCAPED = "surrogateescape"  # decodes an invalid byte as a lone surrogate (PEP 383)
INVALID = re.compile("[\udc80-\udcff]")
ESCAPE_OFFSET = 0xDC00  # of the surrogate of a byte
BYTE = re.compile("<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class Candidate:
    """A possible next token."""

    token: int
    text: str
    probability: float  # softmax at temperature 1, without filters
    kept: bool  # by the sampling filters
    sampling_probability: float  # after the sampling filters

    def to_mapping(self) -> JsonObject:
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
            text=token_text(sampler.tokenizer, token),
            probability=float(probabilities[token]),
            kept=token in sampling,
            sampling_probability=sampling.get(token, 0.0),
        )
        for token in best
    ]


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """The text of one token; bytes of an incomplete character are shown as `<0xED>`."""
    special = tokenizer.special_text(token)
    if special is not None:
        return special
    return _with_bytes(tokenizer.token_bytes(token).decode("utf-8", ESCAPED))


def about_bytes(texts: Iterable[str]) -> str:
    """What `<0xED>` means, if one of the texts of tokens contains it; else empty."""
    found = next(filter(None, map(BYTE.search, texts)), None)
    return f"{found[0]} is a byte of a character that is split into several tokens" if found else ""


def text_with_bytes(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of `ids`; bytes that are no character are shown as `<0xED>`.

    An incomplete character at the end is left out.
    """
    return _with_bytes(_escaped(tokenizer, ids))


def n_invalid_bytes(tokenizer: Tokenizer, ids: Sequence[int]) -> int:
    """How many bytes in the text of `ids` are no character, apart from those at its end."""
    return len(INVALID.findall(_escaped(tokenizer, ids)))


def _escaped(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    stream = TextStream(tokenizer, ESCAPED)
    return "".join(map(stream.push, ids))


def _with_bytes(text: str) -> str:
    """`text`, decoded with the error handler ESCAPED, with its invalid bytes shown as `<0xED>`."""
    return INVALID.sub(lambda found: f"<0x{ord(found[0]) - ESCAPE_OFFSET:02X}>", text)


def character_spans(tokenizer: Tokenizer, ids: Sequence[int]) -> Iterator[tuple[str, int, int]]:
    """`ids` as groups of tokens with complete characters: text, first token and end of each."""
    stream, first = TextStream(tokenizer, ESCAPED), 0
    for last, token in enumerate(ids, 1):
        special = tokenizer.special_text(token)
        text = stream.push(token) if special is None else stream.finish() + special
        text += stream.finish() if last == len(ids) else ""
        if text or last == len(ids):
            yield _with_bytes(text), first, last
            first = last


# ---------------------------------------------------------------- a reply


@dataclass(frozen=True)
class TokenProbability:
    """A token of a reply with its statistics; see `StreamedToken`."""

    token: str
    id: int
    probability: float
    rank: int
    entropy: float

    def to_mapping(self) -> JsonObject:
        return asdict(self)


def token_probabilities(
    sampler: Sampler, reply: Reply, streamed: Iterable[StreamedToken]
) -> list[TokenProbability]:
    """One item for each of `reply.new_ids`, from the tokens that the reply has streamed.

    END_OF_TEXT is not streamed; its statistics are computed here.
    """
    tokenizer = sampler.tokenizer
    found = [
        TokenProbability(
            token_text(tokenizer, one.token), one.token, one.probability, one.rank, one.entropy
        )
        for one in streamed
        if one.token is not None
    ]
    for number in range(len(found), len(reply.new_ids)):
        token = reply.new_ids[number]
        logits = sampler.next_logits([*reply.prompt_ids, *reply.new_ids[:number]])
        statistics = token_statistics(logits, token)
        found.append(TokenProbability(token_text(tokenizer, token), token, *statistics))
    return found


# ---------------------------------------------------------------- attention


def attention(model: SimpleLLM, ids: Sequence[int]) -> Tensor:
    """Attention weights (L, H, T) of the last of `ids` on all of them, on the CPU."""
    return attention_rows(model, ids, 1)[:, :, 0]


@torch.inference_mode()
def attention_rows(model: SimpleLLM, ids: Sequence[int], n: int) -> Tensor:
    """Attention weights (L, H, n, T) of the last `n` of `ids` on all of them, on the CPU.

    softmax(q k / sqrt(D)) of the queries and keys that the model computes; 0 for later tokens.
    """
    weights: list[Tensor] = []

    def record(module: MultiHeadAttention, inputs: tuple[Any, ...]) -> None:
        q, k, _ = module.heads(inputs[0], inputs[1])  # (1, H, T, D), (1, G, T, D)
        H, G, D = module.sizes
        keys = k[0].repeat_interleave(H // G, dim=0)  # (H, T, D)
        scores = (q[0, :, -n:] @ keys.transpose(1, 2)).float() / math.sqrt(D)  # (H, n, T)
        T = scores.shape[-1]
        is_later = torch.ones(n, T, device=scores.device).triu(T - n + 1).bool()
        weights.append(scores.masked_fill(is_later, -math.inf).softmax(-1).cpu())

    device = model.token_embedding.weight.device
    handles = [
        cast(TransformerBlock, block).attention.register_forward_pre_hook(record)
        for block in model.blocks
    ]
    try:
        with failures_reported(device):
            model.hidden(torch.tensor([list(ids)], device=device))
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(weights)
