"""The format `messages`: roles and contents, as the OpenAI API has them.

    {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]}

A record may also be the list of messages alone. `"weight": 0` makes a reply context only. `name` is
kept. Contents may be lists of text parts. Tool calls, tool roles and pictures are refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from simplellm.data.conversations.conversation import Turn
from simplellm.data.conversations.found import BadRecord, keys_of
from simplellm.data.conversations.json_values import ROLE_KEYS, TEXT_KEYS
from simplellm.data.conversations.readers.roles import refuse_tools, role_of, text_of

KEYS = ("messages", "conversations", "conversation", "dialog", "dialogue", "turns", "items")


def fits(record: Any) -> bool:
    messages = record.get("messages") if isinstance(record, dict) else record
    return has_messages(messages)


def has_messages(value: Any) -> bool:
    """Whether a value is a list of objects."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def turns(record: Any) -> list[Turn]:
    return turns_of(messages_of(record))


def messages_of(record: Any) -> list[Any]:
    """The list of messages of a record; BadRecord if there is none."""
    if isinstance(record, list):
        return record
    if not isinstance(record, dict):
        raise BadRecord(f"is no JSON object but {type(record).__name__}")
    refuse_tools(record)
    for key in KEYS:
        if isinstance(record.get(key), list):
            return record[key]
    raise BadRecord(f'has no list "messages" or "conversations"; its keys: {keys_of(record)}')


def turns_of(messages: Iterable[Any]) -> list[Turn]:
    """The turns of a list of messages."""
    return [_turn(message) for message in messages]


def _turn(message: Any) -> Turn:
    if not isinstance(message, dict):
        raise BadRecord(f"has a turn that is no JSON object but {type(message).__name__}")
    refuse_tools(message)
    role_key = next((key for key in ROLE_KEYS if key in message), None)
    text_key = next((key for key in TEXT_KEYS if key in message), None)
    if role_key is None or text_key is None:
        raise BadRecord(f"has a turn without role or content; its keys: {keys_of(message)}")
    name = message.get("name")
    return Turn(
        role_of(message[role_key]),
        text_of(message[text_key]),
        name if isinstance(name, str) and name else None,
        is_learned=message.get("weight") not in (0, False),
    )
