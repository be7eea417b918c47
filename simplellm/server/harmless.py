"""Parameters of OpenAI's API that are not supported: the values of them that change nothing.

Clients send many parameters with their default values. Those are accepted, all others are refused
by name, so that no request is answered in another way than it asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Accepts = Callable[[Any], bool]


def _one_of(*values: Any) -> Accepts:
    # bool is a kind of int in Python: 0 == False
    return lambda value: any(value == one and type(value) is type(one) for one in values)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_text_format(value: Any) -> bool:
    return value == {"type": "text"}


COMMON: Mapping[str, Accepts] = {
    "user": _is_text,
    "frequency_penalty": _one_of(0, 0.0),
    "presence_penalty": _one_of(0, 0.0),
    "logit_bias": _one_of({}),
}
OF_COMPLETIONS: Mapping[str, Accepts] = {
    **COMMON,
    "best_of": _one_of(1),
    "suffix": _one_of(""),
}
OF_CHAT: Mapping[str, Accepts] = {
    **COMMON,
    "audio": _one_of(),
    "function_call": _one_of("none", "auto"),
    "functions": _one_of([]),
    "metadata": _is_object,
    "modalities": _one_of(["text"]),
    "moderation": _one_of(),
    "parallel_tool_calls": _is_flag,
    "prediction": _one_of(),
    "prompt_cache_key": _is_text,
    "prompt_cache_options": _is_object,
    "prompt_cache_retention": _is_text,
    "reasoning_effort": _one_of("none"),
    "response_format": _is_text_format,
    "safety_identifier": _is_text,
    "service_tier": _one_of("auto", "default"),
    "store": _one_of(False),
    "tool_choice": _one_of("none", "auto"),
    "tools": _one_of([]),
    "verbosity": _one_of("medium"),
    "web_search_options": _one_of(),
}
