"""The format `prompt`: one prompt and one reply.

    {"prompt": "What is the capital of Korea?", "completion": "Seoul"}

Also with the keys prompt and response, question and answer, and others in KEY_PAIRS. `system` is
the system message; `history` is a list of earlier [prompt, reply] pairs. White space around the
texts is removed: older data sets separate prompt and completion with it. Both may also be lists of
messages, as TRL has them.
"""

from __future__ import annotations

from typing import Any

from simplellm.data.conversations.conversation import ASSISTANT, SYSTEM, USER, Turn
from simplellm.data.conversations.found import BadRecord, keys_of
from simplellm.data.conversations.readers import messages
from simplellm.data.conversations.readers.roles import refuse_tools

KEY_PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("query", "response"),
    ("query", "answer"),
    ("question", "response"),
    ("prompt", "answer"),
    ("prompt", "output"),
    ("prompt", "reply"),
    ("message", "reply"),
    ("input", "output"),
    ("input", "response"),
    ("user", "assistant"),
    ("human", "assistant"),
    ("user", "bot"),
)


def fits(record: Any) -> bool:
    return isinstance(record, dict) and _pair(record) is not None


def turns(record: Any) -> list[Turn]:
    if not isinstance(record, dict):
        raise BadRecord(f"is no JSON object but {type(record).__name__}")
    refuse_tools(record)
    pair = _pair(record)
    if pair is None:
        raise BadRecord(
            f'has no texts "prompt" and "completion"; its keys: {keys_of(record)}',
            fix="use the keys prompt and completion, or --skip-bad",
        )
    prompt, reply = (record[key] for key in pair)
    return [*before(record), *_side(USER, prompt), *_side(ASSISTANT, reply)]


def before(record: dict[str, Any]) -> list[Turn]:
    """The system message and the earlier turns of a record."""
    system, history = record.get("system"), record.get("history")
    found = [Turn(SYSTEM, system)] if isinstance(system, str) else []
    for pair in history if isinstance(history, list) else ():
        if not (isinstance(pair, list) and len(pair) == 2 and all(map(_is_text, pair))):
            raise BadRecord("has a history that is no list of [prompt, reply] pairs")
        found += [Turn(USER, pair[0].strip()), Turn(ASSISTANT, pair[1].strip())]
    return found


def _pair(record: dict[str, Any]) -> tuple[str, str] | None:
    """The keys of prompt and reply; None if there are none."""
    return next(
        (pair for pair in KEY_PAIRS if all(_is_side(record.get(key)) for key in pair)), None
    )


def _is_side(value: Any) -> bool:
    return isinstance(value, str) or messages.has_messages(value)


def _side(role: str, value: Any) -> list[Turn]:
    return [Turn(role, value.strip())] if isinstance(value, str) else messages.turns_of(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
