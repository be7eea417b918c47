"""The messages of a request for one reply: what `generate --messages` and `model.chat` take."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from simplellm.data.conversations.conversation import USER, Turn
from simplellm.data.conversations.found import BadRecord
from simplellm.data.conversations.readers.messages import messages_of, turns_of
from simplellm.errors import TextError

FIX = 'a list such as [{"role": "user", "content": "Hello"}]'


def parsed_request(text: str, source: str) -> list[Turn]:
    """The turns of a JSON text; TextError names `source` and what is wrong."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f" line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise TextError(f"{source}{where} is not JSON", fix=FIX) from error
    return turns_to_answer(value, source)


def turns_to_answer(value: Any, source: str) -> list[Turn]:
    """The turns of a list of messages, the last of which is a user's.

    TextError names `source` and the message that is wrong.
    """
    try:
        messages = messages_of(value)
    except BadRecord as bad:
        raise TextError(f"{source} {bad}", fix=FIX) from bad
    turns = list(_turns(messages, source))
    if not turns:
        raise TextError(f"{source} has no messages", fix=FIX)
    if turns[-1].role != USER:
        raise TextError(
            f"{source} ends with a message of the {turns[-1].role}; a reply answers a user",
            fix="add a message of the user, or leave the last one out",
        )
    return turns


def _turns(messages: list[Any], source: str) -> Iterator[Turn]:
    for number, message in enumerate(messages, 1):
        try:
            yield from turns_of([message])
        except BadRecord as bad:
            raise TextError(f"{source} message {number} {bad}", fix=FIX) from bad
