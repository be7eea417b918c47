"""The format `saved`: a conversation that the chat of this program has saved.

A line with the number of an earlier turn replaces that turn and those after it; `{"turns": 1}`
keeps only the first turn (see simplellm/app/conversation.py, which writes the file). A turn that
the model answered without the earlier ones begins a new conversation. Replies that were interrupted
or cut at their greatest length are context only: they do not end where a reply should.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from simplellm.data.conversations.conversation import ASSISTANT, USER, Turn
from simplellm.data.conversations.format import Dropped, Format, Sample
from simplellm.data.conversations.found import Found
from simplellm.data.conversations.json_values import json_values
from simplellm.data.conversations.options import ReadOptions
from simplellm.data.source import Source
from simplellm.errors import TextError

COMPLETE = ("stop", "end_of_text")  # reasons for which a whole reply ends
REPLACED = "turns that were replaced or undone"


class Exchange(NamedTuple):
    """A prompt and its reply. in_context: whether the model saw the earlier ones."""

    where: str
    turns: list[Turn]
    in_context: bool


def fits(sample: Sample) -> float:
    return float(bool(sample.records) and _is_header(sample.records[0]))


def read(source: Source, options: ReadOptions, dropped: Dropped) -> Iterator[Found]:
    exchanges: list[Exchange] = []
    for where, record in json_values(source):
        if _is_header(record):
            continue
        n_kept = _n_kept(record, len(exchanges))
        if n_kept is None:
            what = f"{source.name} {where} is no line of a saved conversation"
            yield Found(where, TextError(what, fix="correct it, or use --skip-bad"))
            continue
        dropped[REPLACED] += len(exchanges) - n_kept
        del exchanges[n_kept:]
        if _is_exchange(record):
            exchanges.append(_exchange(where, record))
    yield from _conversations(exchanges)


def _is_header(record: Any) -> bool:
    """A chat in chat mode has its messages there, and is in the format `messages`."""
    is_of_chat = isinstance(record, dict) and record.get("simplellm") == "conversation"
    return is_of_chat and "messages" not in record


def _n_kept(record: Any, n_turns: int) -> int | None:
    """How many of the turns above a line keeps; None for a wrong line."""
    if not isinstance(record, dict):
        return None
    is_exchange = _is_exchange(record)
    n_kept = _whole(record["turn"]) - 1 if is_exchange else _whole(record.get("turns"))
    return n_kept if 0 <= n_kept <= n_turns else None


def _is_exchange(record: dict[str, Any]) -> bool:
    return "turn" in record and all(isinstance(record.get(key), str) for key in ("prompt", "reply"))


def _whole(value: Any) -> int:
    """A number of turns; -1 for other values."""
    return value if isinstance(value, int) and not isinstance(value, bool) else -1


def _exchange(where: str, record: dict[str, Any]) -> Exchange:
    is_complete = record.get("stop_reason") in COMPLETE
    reply = Turn(ASSISTANT, record["reply"], is_learned=is_complete)
    return Exchange(where, [Turn(USER, record["prompt"]), reply], record.get("context") is True)


def _conversations(exchanges: list[Exchange]) -> Iterator[Found]:
    turns: list[Turn] = []
    where = ""
    for exchange in exchanges:
        if turns and not exchange.in_context:
            yield Found(where, turns)
            turns = []
        where = where if turns else exchange.where
        turns.extend(exchange.turns)
    if turns:
        yield Found(where, turns)


FORMAT = Format("saved", "a conversation that the chat of this program saved", fits, read)
