"""The format `telegram`: `result.json` of a chat, or of a whole account, exported by Telegram.

Texts are plain, or lists of plain and formatted parts. Dropped are service messages (calls, new
members) and media without a caption. A message of a deleted account has the speaker
`Deleted account`. Each chat has conversations of its own. Whose messages are the replies, `--me`
says; chats of an account without this person are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

from simplellm.data.conversations import chat_export
from simplellm.data.conversations.chat_export import Message, clean_name, visible
from simplellm.data.conversations.dated_lines import MEDIA, NOTICES
from simplellm.data.conversations.format import Dropped, Format, Sample
from simplellm.data.conversations.found import Found
from simplellm.data.conversations.json_values import json_values
from simplellm.data.conversations.options import ReadOptions
from simplellm.data.source import Source
from simplellm.errors import TextError

DELETED_ACCOUNT = "Deleted account"
OTHER_CHATS = "messages of chats without the person of --me"
MEDIA_KEYS = ("media_type", "photo", "file", "location_information", "contact_information", "poll")


def fits(sample: Sample) -> float:
    return float(any(map(_chats, sample.records)))


def read(source: Source, options: ReadOptions, dropped: Dropped) -> Iterator[Found]:
    for where, value in json_values(source):
        if isinstance(value, TextError):
            yield Found(where, value)
        elif chats := _chats(value):
            found = [_messages(chat, dropped) for chat in chats]
            yield from _conversations(source, [chat for chat in found if chat], options, dropped)
        else:
            what = f"{source.name} {where} is no Telegram chat: it has no list of messages"
            yield Found(where, TextError(what, fix="export the chat as JSON (result.json)"))


def _conversations(
    source: Source, chats: list[list[Message]], options: ReadOptions, dropped: Dropped
) -> Iterator[Found]:
    """The conversations of chats in which the person of `options.me` takes part."""
    counts = Counter(message.speaker for chat in chats for message in chat)
    if not counts:
        return
    me = chat_export.replying_speaker(source.name, counts, options.me)
    for chat in chats:
        if any(message.speaker == me for message in chat):
            yield from chat_export.conversations(source.name, chat, options)
        else:
            dropped[OTHER_CHATS] += len(chat)


def _chats(value: Any) -> list[list[Any]]:
    """The lists of messages of an export; empty for other values."""
    if not isinstance(value, dict):
        return []
    if _is_chat(value):
        return [value["messages"]]
    chats = value.get("chats")
    listed = chats.get("list") if isinstance(chats, dict) else None
    if not isinstance(listed, list):
        return []
    return [chat["messages"] for chat in listed if _is_chat(chat)]


def _is_chat(value: Any) -> bool:
    messages = value.get("messages") if isinstance(value, dict) else None
    if not isinstance(messages, list) or not messages:
        return False
    first = messages[0]
    return isinstance(first, dict) and "date" in first and "role" not in first


def _messages(entries: list[Any], dropped: Dropped) -> list[Message]:
    """The messages of people."""
    found = []
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or entry.get("type", "message") != "message":
            dropped[NOTICES] += 1
            continue
        text = visible(_text(entry.get("text", "")))
        if not text and any(key in entry for key in MEDIA_KEYS):
            dropped[MEDIA] += 1
            continue
        name = clean_name(str(entry.get("from") or DELETED_ACCOUNT))
        where = f"message {entry.get('id', number)}"
        found.append(Message(name, text, _seconds(entry), where))
    return found


def _text(value: Any) -> str:
    """A text that is plain or a list of plain and formatted parts."""
    parts = value if isinstance(value, list) else [value]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return "".join(text for text in texts if isinstance(text, str))


def _seconds(entry: dict[str, Any]) -> float | None:
    """The time of a message; None if it is missing or wrong."""
    try:
        if "date_unixtime" in entry:
            return float(entry["date_unixtime"])
        date = datetime.fromisoformat(str(entry["date"]))
        return date.replace(tzinfo=date.tzinfo or timezone.utc).timestamp()
    except (ValueError, KeyError, TypeError, OverflowError, OSError):
        return None


FORMAT = Format(
    "telegram", "a chat exported by Telegram as result.json; needs --me", fits, read, uses_me=True
)
