"""JSON of requests and responses: a strict reader, and a writer that accepts any text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from starlette.responses import Response

LINE_ENDS = {number: f"\\u{number:04x}" for number in (0x85, 0x2028, 0x2029)}


class JsonResponse(Response):
    """A JSON document."""

    media_type = "application/json"

    def __init__(
        self, content: Any, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(json_line(content), status, headers)


def json_line(value: Any) -> bytes:
    """`value` as UTF-8 JSON on one line. Lone surrogates, which UTF-8 lacks, become "?".

    Characters that some readers of event streams take for line ends are escaped.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(LINE_ENDS).encode("utf-8", "replace")


def parsed(data: bytes) -> Any:
    """The value of a JSON document; ValueError where it is none."""
    try:
        return json.loads(data.decode("utf-8-sig"), parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at line {error.lineno}, column {error.colno}") from error
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8") from error


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
