"""The format `chatterbot`: lists of texts in which a user and the bot take turns.

    {"categories": ["greetings"], "conversations": [["Hello", "Hi"], ["How are you?", "Fine."]]}

That is the YAML of chatterbot-corpus as JSON, a whole file or a line for each file. A record may
also be one conversation: `["Hello", "Hi"]`, or a list under the key conversation or dialog. The
first text is the user's. A text in place of a conversation, a typing error of the corpus, is a
conversation without a reply.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from simplellm.data.conversations.conversation import Turn
from simplellm.data.conversations.found import BadRecord, keys_of
from simplellm.data.conversations.normal_form import alternating

KEYS = ("conversations", "conversation", "dialog", "dialogue", "dialogs")


def fits(record: Any) -> bool:
    value = _value(record)
    return isinstance(value, list) and any(isinstance(item, (str, list)) for item in value[:1])


def parts(record: Any) -> Iterator[tuple[str, Any]]:
    """Each conversation of a record, with its number for messages."""
    value = _value(record)
    if isinstance(value, list) and value and not isinstance(value[0], str):
        yield from ((f" conversation {number}", one) for number, one in enumerate(value, 1))
    else:
        yield "", record if value is None else value


def turns(conversation: Any) -> list[Turn]:
    if isinstance(conversation, dict):
        raise BadRecord(f'has no list "conversations"; its keys: {keys_of(conversation)}')
    if isinstance(conversation, str):
        conversation = [conversation]
    if not isinstance(conversation, list):
        raise BadRecord(f"is no list of texts but {type(conversation).__name__}")
    for text in conversation:
        if not isinstance(text, str):
            raise BadRecord(f"has a turn that is no text but {type(text).__name__}")
    return alternating(conversation)


def _value(record: Any) -> Any:
    if isinstance(record, dict):
        return next((record[key] for key in KEYS if isinstance(record.get(key), list)), None)
    return record
