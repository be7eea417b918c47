"""The format `sharegpt`: `conversations` with `from` and `value`.

    {"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi!"}]}

A `system` text beside the list is the system message. Speakers are human, user, gpt, assistant,
system and their usual other names. Turns of tools are refused.
"""

from __future__ import annotations

from typing import Any

from simplellm.data.conversations.conversation import SYSTEM, Turn
from simplellm.data.conversations.readers import messages


def fits(record: Any) -> bool:
    if not isinstance(record, dict):
        return False
    return any(messages.has_messages(record.get(key)) for key in messages.KEYS)


def turns(record: Any) -> list[Turn]:
    found = messages.turns(record)
    system = record.get("system") if isinstance(record, dict) else None
    return [Turn(SYSTEM, system), *found] if isinstance(system, str) else found
