"""What a file of tensors says it holds, checked before any of it is believed: nothing is allocated here but the header.

The format is safetensors: 8 bytes of length, a JSON object of that length, and the tensors one behind the other.
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
MOST_HEADER_BYTES = 1 << 25  # that of a model of 1000 blocks has 1 MB
MOST_DIMENSIONS, LARGEST_NUMBER = 8, 1 << 62
ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4,
    "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
METADATA = "__metadata__"
Shape = tuple[int, ...]


class Entry(NamedTuple):
    """A tensor of the file: its type, its shape, and where its bytes lie behind the header."""

    dtype: str
    shape: Shape
    begin: int
    end: int


def read_header(path: Path) -> dict[str, Entry]:
    """The tensors of a file by name; CheckpointError where its header and its size do not hold together."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            if not 2 <= length <= min(size - LENGTH_BYTES, MOST_HEADER_BYTES):
                raise ValueError(f"a header of {length} bytes cannot be in a file of {size}")
            entries = _entries(file.read(length))
        _check_places(entries, size - LENGTH_BYTES - length)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} holds no weights that can be read: {error}") from error
    return entries


def check_fit(
    path: Path,
    entries: Mapping[str, Entry],
    expected: Mapping[str, tuple[int, ...]],
    dtypes: tuple[str, ...],
) -> None:
    """CheckpointError that names the first tensor which is missing, unknown, of another shape or of a type not in `dtypes`."""
    for name, shape in expected.items():
        if name not in entries:
            raise CheckpointError(f"{path} lacks {name!r}")
        if entries[name].shape != shape:
            raise CheckpointError(
                f"{name!r} in {path} is {list(entries[name].shape)}, {list(shape)} was expected"
            )
    for name, entry in entries.items():
        if name not in expected:
            raise CheckpointError(f"{path} holds {name[:100]!r}, which is not part of this model")
        if entry.dtype not in dtypes:
            raise CheckpointError(
                f"{name!r} in {path} is of type {entry.dtype}, which this program does not read"
            )


def _entries(header: bytes) -> dict[str, Entry]:
    content = json.loads(header, object_pairs_hook=reject_duplicate_keys)
    if not isinstance(content, dict):
        raise ValueError("its header is no JSON object")
    return {name: _entry(name, value) for name, value in content.items() if name != METADATA}


def _entry(name: str, value: Any) -> Entry:
    try:
        dtype, shape, (begin, end) = value["dtype"], tuple(value["shape"]), value["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name[:100]!r} has no type, shape and place") from error
    if (
        not all(
            type(number) is int and 0 <= number < LARGEST_NUMBER for number in (*shape, begin, end)
        )
        or len(shape) > MOST_DIMENSIONS
    ):
        raise ValueError(f"{name[:100]!r} has a shape or a place that cannot be")
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise ValueError(f"{name[:100]!r} is of a type that is not known")
    if math.prod(shape) * ITEM_BYTES[dtype] != end - begin:
        raise ValueError(f"{name[:100]!r} has {end - begin} bytes for a shape of {list(shape)}")
    return Entry(dtype, shape, begin, end)


def _check_places(entries: Mapping[str, Entry], n_bytes: int) -> None:
    """The tensors fill the file: no gaps, in which something could hide, no overlaps, nothing behind its end."""
    place = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != place:
            raise ValueError(f"{name[:100]!r} begins at byte {entry.begin}, not at {place}")
        place = entry.end
    if place != n_bytes:
        raise ValueError(f"its tensors have {place} bytes, the file has {n_bytes}")
