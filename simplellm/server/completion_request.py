"""Requests to /v1/completions: parsed and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from simplellm.config.setting import Setting
from simplellm.server.api_error import ApiError, bad_request
from simplellm.server.fields import Fields
from simplellm.server.harmless import OF_COMPLETIONS
from simplellm.server.reply_options import MAX_TOP, READ, ReplyOptions, read_model, read_options
from simplellm.server.served_model import ServedModel

MAX_PROMPTS = 64
LOGPROBS = Setting(
    "logprobs", "int", None, "most likely tokens at each place", minimum=0, maximum=MAX_TOP
)
ECHO = Setting("echo", "bool", False, "begin the text with the prompt")
BEST_OF = Setting("best_of", "int", None, "", minimum=1)
PROMPT = "prompt"
MAX_TOKENS = "max_tokens"
NAMES = (*READ, PROMPT, MAX_TOKENS, LOGPROBS.name, ECHO.name)
WHAT_PROMPT = "prompt is a text, a list of texts, a list of token ids, or a list of such lists"
Prompt = str | tuple[int, ...]  # a text, or token ids


@dataclass(frozen=True)
class CompletionRequest:
    """Prompts to continue. echo: the text of a choice begins with its prompt."""

    prompts: tuple[Prompt, ...]
    options: ReplyOptions
    echo: bool


def parse_completion(values: Mapping[str, Any], model: ServedModel) -> CompletionRequest:
    """The request in a JSON object; ApiError says what is wrong with it."""
    fields = Fields(values)
    model.require(read_model(fields))
    options = read_options(fields, model.defaults, (MAX_TOKENS,), fewest=0)
    best_of = {**OF_COMPLETIONS, "best_of": lambda value: fields.value(BEST_OF) == options.n}
    fields.refuse_others(NAMES, best_of)
    return CompletionRequest(
        parse_prompts(fields.raw(PROMPT), model.sampler.model.config.vocab_size),
        replace(options, top=fields.value(LOGPROBS)),
        fields.value(ECHO),
    )


def parse_prompts(value: Any, vocab_size: int) -> tuple[Prompt, ...]:
    """The prompts of a request; ApiError where they are none."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list):
        raise _wrong_prompt(type(value).__name__ if value is not None else "none")
    if not value:
        raise _wrong_prompt("an empty list")
    if not isinstance(value[0], (str, list)):
        return (_ids(value, vocab_size),)
    if len(value) > MAX_PROMPTS:
        raise bad_request(f"a request has at most {MAX_PROMPTS} prompts, got {len(value)}", PROMPT)
    if isinstance(value[0], str):
        if not all(isinstance(item, str) for item in value):
            raise _wrong_prompt("a list of texts and other values")
        return tuple(value)
    return tuple(_ids(item, vocab_size) for item in value)


def _ids(value: Any, vocab_size: int) -> tuple[int, ...]:
    if not isinstance(value, list) or not value:
        raise _wrong_prompt("an empty list" if value == [] else f"a list of {_kind(value)}")
    for item in value:
        if not isinstance(item, int) or isinstance(item, bool):
            raise _wrong_prompt(f"a list with {_kind(item)}")
        if not 0 <= item < vocab_size:
            raise bad_request(f"token ids are 0 to {vocab_size - 1}, got {str(item)[:20]}", PROMPT)
    return tuple(value)


def _kind(value: Any) -> str:
    return type(value).__name__


def _wrong_prompt(got: str) -> ApiError:
    return bad_request(f"{WHAT_PROMPT}; got {got}", PROMPT, "invalid_value")
