"""JSON files: a common format and a strict reader."""

from __future__ import annotations

import contextlib
import gc
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from simplellm.errors import CheckpointError

# Types of JSON objects at the boundary; readers check the values that they use.
JsonObject = dict[str, Any]
JsonMapping = Mapping[str, Any]  # read only
MAX_JSON_BYTES = 1 << 28  # a tokenizer with 2 million tokens is smaller


def json_bytes(value: Any) -> bytes:
    """`value` as indented UTF-8 JSON with a final newline; ValueError for NaN and infinity."""
    text = json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    return text.encode("utf-8", "surrogatepass")


def read_json(path: Path) -> JsonObject:
    """The JSON object in a file; CheckpointError if it is missing, too large or not an object.

    Duplicate keys and numbers that are not finite are errors too: `json_bytes` writes neither.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{path} is damaged: it is too large")
        with _without_garbage_collection():
            content = json.loads(
                path.read_bytes(),
                object_pairs_hook=reject_duplicate_keys,
                parse_float=_finite,
                parse_constant=_finite,
            )
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: it is not JSON") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is damaged: it is not a JSON object")
    return content


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """JSON has no cycles, and looking for some takes half the time of a large tokenizer.json."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


def reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> JsonObject:
    """`object_pairs_hook` of `json.loads`: parsers disagree on which duplicate key counts."""
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key occurs twice")
    return content
