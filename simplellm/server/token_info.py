"""Tokens in responses: their names, bytes and log-probabilities, in both shapes of OpenAI."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from simplellm.data.tokenizer import Tokenizer
from simplellm.storage.json_files import JsonObject

LOWEST = -9999.0  # stands for log(0), which JSON lacks; OpenAI's value
TopTokens = tuple[tuple[int, float], ...]  # ids and log-probabilities, most likely first


@dataclass(frozen=True)
class TokenInfo:
    """One token of a text.

    offset: characters of the text before it. log_probability: None for the first token of a prompt.
    """

    token: int
    offset: int
    log_probability: float | None
    top: TopTokens = ()


def token_name(tokenizer: Tokenizer, token: int) -> str:
    """The text of a token. Bytes of an incomplete character are escaped: `\\xed`."""
    special = tokenizer.special_text(token)
    if special is not None:
        return special
    data = tokenizer.token_bytes(token)
    return data.decode("utf-8", "backslashreplace") if data else f"<token {token}>"


def token_data(tokenizer: Tokenizer, token: int) -> list[int]:
    """The bytes of a token; those of its text for a special one."""
    special = tokenizer.special_text(token)
    return list(tokenizer.token_bytes(token) if special is None else special.encode())


def token_ids(tokens: Sequence[TokenInfo], tokenizer: Tokenizer) -> JsonObject:
    """Ids and bytes of the tokens of a choice, for requests with `return_token_ids`."""
    return {
        "token_ids": [info.token for info in tokens],
        "token_bytes": [token_data(tokenizer, info.token) for info in tokens],
    }


def chat_logprobs(tokens: Iterable[TokenInfo], tokenizer: Tokenizer) -> JsonObject:
    """`logprobs` of a choice of a chat completion."""

    def entry(token: int, log_probability: float) -> JsonObject:
        return {
            "token": token_name(tokenizer, token),
            "logprob": max(log_probability, LOWEST),
            "bytes": token_data(tokenizer, token),
        }

    content = [
        {
            **entry(info.token, info.log_probability or 0.0),
            "top_logprobs": [entry(*pair) for pair in info.top],
        }
        for info in tokens
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(tokens: Sequence[TokenInfo], tokenizer: Tokenizer) -> JsonObject:
    """`logprobs` of a choice of a completion. The most likely tokens include the token itself."""
    return {
        "tokens": [token_name(tokenizer, info.token) for info in tokens],
        "token_logprobs": [_bounded(info.log_probability) for info in tokens],
        "top_logprobs": [_top(info, tokenizer) for info in tokens],
        "text_offset": [info.offset for info in tokens],
    }


def _top(info: TokenInfo, tokenizer: Tokenizer) -> dict[str, float] | None:
    if info.log_probability is None:
        return None
    found: dict[str, float] = {}
    for token, log_probability in (*info.top, (info.token, info.log_probability)):
        found.setdefault(token_name(tokenizer, token), max(log_probability, LOWEST))
    return found


def _bounded(log_probability: float | None) -> float | None:
    return None if log_probability is None else max(log_probability, LOWEST)
