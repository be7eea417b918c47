"""Safetensors headers: checked before a file is loaded, so that a bad file allocates no memory.

The format: 8 bytes with the length of the header, the header (a JSON object), the tensors in order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from simplellm.errors import CheckpointError
from simplellm.storage.json_files import reject_duplicate_keys

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 1 << 25  # a model with 1000 blocks has a header of 1 MB
MAX_DIMENSIONS = 8
MAX_NUMBER = 1 << 62
ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
METADATA = "__metadata__"
Shape = tuple[int, ...]


class Entry(NamedTuple):
    """A tensor: its type, shape and byte range after the header."""

    dtype: str
    shape: Shape
    begin: int
    end: int


def read_header(path: Path) -> dict[str, Entry]:
    """The tensors of a file by name; CheckpointError if the header is invalid."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            if not 2 <= length <= min(size - LENGTH_BYTES, MAX_HEADER_BYTES):
                raise ValueError(
                    f"a header of {length} bytes does not fit into a file of {size} bytes"
                )
            entries = _entries(file.read(length))
        _check_byte_ranges(entries, size - LENGTH_BYTES - length)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a valid safetensors file: {error}") from error
    return entries


def data_start(path: Path) -> int:
    """Where the tensors begin in a file whose header was read."""
    with open(path, "rb") as file:
        return LENGTH_BYTES + int.from_bytes(file.read(LENGTH_BYTES), "little")


def check_fit(
    path: Path,
    entries: Mapping[str, Entry],
    expected: Mapping[str, tuple[int, ...]],
    dtypes: tuple[str, ...],
) -> None:
    """CheckpointError unless the tensors have the expected names and shapes, and known types."""
    for name, shape in expected.items():
        if name not in entries:
            raise CheckpointError(f"{path} has no tensor {name!r}")
        if entries[name].shape != shape:
            raise CheckpointError(
                f"{name!r} in {path} has shape {list(entries[name].shape)}, expected {list(shape)}"
            )
    for name, entry in entries.items():
        if name not in expected:
            raise CheckpointError(
                f"{path} has a tensor {name[:100]!r}, which is not part of this model"
            )
        if entry.dtype not in dtypes:
            raise CheckpointError(
                f"{name!r} in {path} has type {entry.dtype}, expected {' or '.join(dtypes)}"
            )


def _entries(header: bytes) -> dict[str, Entry]:
    content = json.loads(header, object_pairs_hook=reject_duplicate_keys)
    if not isinstance(content, dict):
        raise ValueError("the header is not a JSON object")
    return {name: _entry(name, value) for name, value in content.items() if name != METADATA}


def _entry(name: str, value: Any) -> Entry:
    try:
        dtype, shape, (begin, end) = value["dtype"], tuple(value["shape"]), value["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name[:100]!r} has no type, shape and byte range") from error
    if (
        not all(type(number) is int and 0 <= number < MAX_NUMBER for number in (*shape, begin, end))
        or len(shape) > MAX_DIMENSIONS
    ):
        raise ValueError(f"{name[:100]!r} has an impossible shape or byte range")
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise ValueError(f"{name[:100]!r} has an unknown type")
    if math.prod(shape) * ITEM_BYTES[dtype] != end - begin:
        raise ValueError(f"{name[:100]!r} has {end - begin} bytes for a shape of {list(shape)}")
    return Entry(dtype, shape, begin, end)


def _check_byte_ranges(entries: Mapping[str, Entry], n_bytes: int) -> None:
    """ValueError unless the tensors fill the file, without gaps (hidden data) and overlaps."""
    offset = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != offset:
            raise ValueError(f"{name[:100]!r} begins at byte {entry.begin}, not at {offset}")
        offset = entry.end
    if offset != n_bytes:
        raise ValueError(f"the tensors have {offset} bytes, the file has {n_bytes}")
