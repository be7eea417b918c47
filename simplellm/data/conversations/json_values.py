"""The JSON values of a file: JSON lines, an array of records, or values that span many lines.

The content decides, not the name of the file: data sets with JSON lines are often called .json, and
files with one array .jsonl.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

from simplellm.data.source import Source, numbered_lines
from simplellm.errors import TextError

SPACE = re.compile(r"[ \t\n\r,]*")  # between two values; commas separate those of an array
ROLE_KEYS = ("role", "from", "speaker")  # of a message
TEXT_KEYS = ("content", "value", "text")
MAX_CUT = 12  # characters of a literal or an escape that the end of a part cuts
DECODER = json.JSONDecoder()
Placed = tuple[str, Any]  # where a value begins, for messages, and the value or its TextError


def json_values(source: Source) -> Iterator[Placed]:
    """Place and value of each record; a value that is not JSON is a TextError.

    The records of an array count one by one. An array of texts or of messages is one record.
    """
    lines = numbered_lines(source.decoded())
    first = next(lines, None)
    if first is None:
        return
    if isinstance(_line_value(source, *first), TextError) and _begins_a_value(source):
        spanning = _spanning_values(source)
        begin = next(spanning, None)
        if begin is not None and not isinstance(begin[1], TextError):
            yield begin
            yield from spanning
            return
    for number, line in itertools.chain([first], lines):
        yield from _records(number, _line_value(source, number, line))


def is_record(value: Any) -> bool:
    """Whether an element of an array is a record of its own: no text and no message."""
    if isinstance(value, dict):
        return not (value.keys() & set(ROLE_KEYS) and value.keys() & set(TEXT_KEYS))
    return isinstance(value, list)


def _line_value(source: Source, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return _not_json(source, number)


def _not_json(source: Source, number: int) -> TextError:
    return TextError(
        f"{source.name} line {number} is not JSON", fix="correct the file, or use --skip-bad"
    )


def _begins_a_value(source: Source) -> bool:
    """Whether a file begins with an object or an array of records or texts, or a part of one.

    A large text that does not is not read as a whole.
    """
    text = "".join(itertools.islice(source.decoded(), 2)).lstrip()
    try:
        value, _ = DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        return error.pos >= len(text) - MAX_CUT or error.msg.startswith("Unterminated string")
    except (ValueError, RecursionError):
        return False
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, (dict, list, str))


def _records(number: int, value: Any) -> Iterator[Placed]:
    if isinstance(value, list) and value and is_record(value[0]):
        for position, record in enumerate(value, 1):
            yield f"line {number} record {position}", record
    else:
        yield f"line {number}", value


def _spanning_values(source: Source) -> Iterator[Placed]:
    """The records of values that may span lines. What follows an error cannot be read."""
    text = "".join(source.decoded())
    line, counted = 1, 0
    try:
        for position, value in _values(text):
            line += text.count("\n", counted, position)
            counted = position
            yield f"line {line}", value
    except _Broken as broken:
        yield f"line {broken.line}", _not_json(source, broken.line)


class _Broken(Exception):
    """What follows is not JSON. `line`: of the fault."""

    def __init__(self, text: str, position: int) -> None:
        super().__init__()
        self.line = text.count("\n", 0, position) + 1


def _values(text: str) -> Iterator[tuple[int, Any]]:
    """Position and value of each record in a text."""
    position = _skip(text, 0)
    while position < len(text):
        if text[position] == "[" and is_record(_first_element(text, position)):
            position = _skip(text, position + 1)
            while text[position : position + 1] not in ("]", ""):
                value, end = _decode(text, position)
                yield position, value
                position = _skip(text, end)
            if position == len(text):
                raise _Broken(text, position)
            position = _skip(text, position + 1)
        else:
            value, end = _decode(text, position)
            yield position, value
            position = _skip(text, end)


def _first_element(text: str, position: int) -> Any:
    """The first element of the array at `position`; None if it has none."""
    position = _skip(text, position + 1)
    return None if text[position : position + 1] in ("]", "") else _decode(text, position)[0]


def _skip(text: str, position: int) -> int:
    match = SPACE.match(text, position)
    return match.end() if match else position


def _decode(text: str, position: int) -> tuple[Any, int]:
    try:
        return DECODER.raw_decode(text, position)
    except json.JSONDecodeError as error:
        raise _Broken(text, error.pos) from error
    except (ValueError, RecursionError) as error:
        raise _Broken(text, position) from error
