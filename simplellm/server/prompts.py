"""Prompts: encoded, and checked against the context of the model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from simplellm.data.conversations.conversation import Turn
from simplellm.data.tokenizer import TextStream, Tokenizer
from simplellm.data.utf8 import encodable
from simplellm.server.api_error import ApiError, bad_request
from simplellm.server.chat_request import MESSAGES
from simplellm.server.completion_request import PROMPT, Prompt
from simplellm.server.prompt_scores import Score
from simplellm.server.served_model import ServedModel
from simplellm.server.token_info import TokenInfo

LONG_TEXT = 20_000  # characters; a longer text is encoded in a thread of its own


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt as the model reads it, and its text."""

    ids: tuple[int, ...]
    text: str = ""


async def encoded_prompt(prompt: Prompt, model: ServedModel) -> EncodedPrompt:
    """A prompt of a completion; ApiError where it does not fit the context."""
    tokenizer = model.sampler.tokenizer
    if isinstance(prompt, str):
        ids = await _encoded(lambda: tokenizer.encode_prompt(prompt), len(prompt))
        found = EncodedPrompt(tuple(ids), encodable(prompt))
    else:
        found = EncodedPrompt(prompt, tokenizer.decode(prompt))
    _check_length(found.ids, model.context, "the prompt", PROMPT)
    return found


async def encoded_messages(turns: Sequence[Turn], model: ServedModel) -> EncodedPrompt:
    """The messages of a chat by the template of the model, with the beginning of a reply."""
    template = model.sampler.template
    if template is None:
        raise bad_request(
            f"{model.name} has no chat template: it continues text, and answers no messages; "
            "use /v1/completions, or a model that was trained on conversations",
            MESSAGES,
            "no_chat_template",
        )
    tokenizer = model.sampler.tokenizer
    n_characters = sum(len(turn.text) for turn in turns)
    ids = await _encoded(lambda: template.encode(turns, tokenizer, is_open=True), n_characters)
    # at least one token of the reply fits, as in the terminal
    _check_length(ids, model.context - 1, "the messages", MESSAGES)
    return EncodedPrompt(tuple(ids))


def prompt_tokens(
    prompt: EncodedPrompt, scores: Sequence[Score], tokenizer: Tokenizer
) -> tuple[TokenInfo, ...]:
    """The tokens of a prompt with their scores; the first one has none."""
    stream, offset = TextStream(tokenizer), 0
    tokens = []
    for token, (log_probability, top) in zip(prompt.ids, [(None, ()), *scores], strict=True):
        tokens.append(TokenInfo(token, offset, log_probability, top))
        offset += len(stream.push(token))
    return tuple(tokens)


async def _encoded(encode: Callable[[], list[int]], n_characters: int) -> list[int]:
    return await asyncio.to_thread(encode) if n_characters > LONG_TEXT else encode()


def _check_length(ids: Sequence[int], most: int, what: str, param: str) -> None:
    if len(ids) > most:
        raise ApiError(
            400,
            f"the context of the model has room for {most:,} tokens here, {what} "
            f"{'have' if what.endswith('s') else 'has'} {len(ids):,}; shorten it",
            param=param,
            code="context_length_exceeded",
        )
