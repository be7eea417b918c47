"""Requests to /v1/chat/completions: parsed and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from simplellm.config.setting import Setting
from simplellm.data.conversations.conversation import Turn
from simplellm.data.conversations.request import turns_to_answer
from simplellm.errors import TextError
from simplellm.server.api_error import bad_request, with_fix
from simplellm.server.fields import Fields
from simplellm.server.harmless import OF_CHAT
from simplellm.server.reply_options import MAX_TOP, READ, ReplyOptions, read_model, read_options
from simplellm.server.served_model import ServedModel

MESSAGES = "messages"
LOGPROBS = Setting("logprobs", "bool", False, "report the probability of each token")
TOP_LOGPROBS = Setting(
    "top_logprobs", "int", None, "most likely tokens at each place", minimum=0, maximum=MAX_TOP
)
TOKEN_LIMITS = ("max_completion_tokens", "max_tokens")
NAMES = (*READ, MESSAGES, *TOKEN_LIMITS, LOGPROBS.name, TOP_LOGPROBS.name)


@dataclass(frozen=True)
class ChatRequest:
    """Messages to answer."""

    turns: tuple[Turn, ...]
    options: ReplyOptions


def parse_chat(values: Mapping[str, Any], model: ServedModel) -> ChatRequest:
    """The request in a JSON object; ApiError says what is wrong with it."""
    fields = Fields(values)
    model.require(read_model(fields))
    options = read_options(fields, model.chat_defaults, TOKEN_LIMITS, fewest=1)
    fields.refuse_others(NAMES, OF_CHAT)
    has_logprobs, top = fields.value(LOGPROBS), fields.value(TOP_LOGPROBS)
    if top is not None and not has_logprobs:
        raise bad_request("top_logprobs needs logprobs", TOP_LOGPROBS.name)
    turns = parse_messages(fields.raw(MESSAGES))
    return ChatRequest(turns, replace(options, top=(top or 0) if has_logprobs else None))


def parse_messages(value: Any) -> tuple[Turn, ...]:
    """The turns of a list of messages; ApiError where it is none."""
    if not isinstance(value, list):
        raise bad_request("messages is a list of messages", MESSAGES, "invalid_value")
    try:
        return tuple(turns_to_answer(value, MESSAGES))
    except TextError as error:
        raise bad_request(with_fix(error), MESSAGES, "invalid_value") from error
