"""GGUF headers: checked before a file is loaded, so that a bad file allocates no memory.

The format (docs/gguf.md of ggml): magic, version, number of tensors, number of metadata entries,
the entries, a description of each tensor, padding, the tensors. Numbers are little-endian.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from simplellm.errors import CheckpointError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_TENSORS = 1 << 16
MAX_ENTRIES = 1 << 16
MAX_ITEMS = 1 << 22  # of an array: a vocabulary of 4 million tokens
MAX_NAME_BYTES = 1 << 16
MAX_TEXT_BYTES = 1 << 24
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 1 << 16
MAX_NUMBER = 1 << 62
ALIGNMENT_KEY = "general.alignment"

# Number formats that can be read: code -> name, values in a block, bytes of a block.
TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 30: ("BF16", 1, 2),
    2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210),
}  # fmt: skip
_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q",
    12: "<d",
}  # fmt: skip
_TEXT, _ARRAY = 8, 9

Value = bool | int | float | str | list[bool] | list[int] | list[float] | list[str]


class GgufEntry(NamedTuple):
    """A tensor: its number format, its shape with rows first, and its byte range in the file."""

    type: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class GgufHeader:
    metadata: Mapping[str, Value]
    tensors: Mapping[str, GgufEntry]


def read_gguf_header(path: Path) -> GgufHeader:
    """CheckpointError if the file cannot be read, is not GGUF, or states what cannot be."""
    try:
        with (
            open(path, "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            return _Reader(content).header()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, struct.error, OverflowError) as error:
        raise CheckpointError(f"{path} is not a valid GGUF file: {error}") from error


class _Reader:
    """Reads the header from its beginning; ValueError where it is invalid."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._size = len(content)
        self._at = 0

    def header(self) -> GgufHeader:
        if self._bytes(len(MAGIC)) != MAGIC:
            raise ValueError("it does not begin with GGUF")
        version = self._number("<I")
        if version not in VERSIONS:
            raise ValueError(f"its version is {version}, supported are 2 and 3 (little-endian)")
        n_tensors, n_entries = self._count(MAX_TENSORS), self._count(MAX_ENTRIES)
        metadata: dict[str, Value] = {}
        for _ in range(n_entries):
            key = self._text(MAX_NAME_BYTES)
            if key in metadata:
                raise ValueError(f"the key {key[:100]!r} occurs twice")
            metadata[key] = self._value(self._number("<I"))
        described: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
        for _ in range(n_tensors):
            name, description = self._description()
            if name in described:
                raise ValueError(f"the tensor {name[:100]!r} occurs twice")
            described[name] = description
        return GgufHeader(metadata, self._entries(described, metadata))

    def _description(self) -> tuple[str, tuple[str, tuple[int, ...], int, int]]:
        """Name, number format, shape, offset and size of a tensor."""
        name = self._text(MAX_NAME_BYTES)
        n_dimensions = self._number("<I")
        if not 1 <= n_dimensions <= MAX_DIMENSIONS:
            raise ValueError(f"{name[:100]!r} has {n_dimensions} dimensions")
        shape = tuple(self._number("<Q") for _ in range(n_dimensions))[::-1]
        code, offset = self._number("<I"), self._number("<Q")
        if code not in TYPES:
            known = ", ".join(kind for kind, _, _ in TYPES.values())
            raise ValueError(
                f"{name[:100]!r} has number format {code}, which is not supported ({known} are)"
            )
        kind, values, n_bytes = TYPES[code]
        n_values = math.prod(shape)
        if not 0 < n_values < MAX_NUMBER or max(shape) >= MAX_NUMBER or offset >= MAX_NUMBER:
            raise ValueError(f"{name[:100]!r} has an impossible shape or offset")
        if shape[-1] % values:
            raise ValueError(f"{name[:100]!r} has rows of {shape[-1]} values, which {kind} lacks")
        return name, (kind, shape, offset, n_values // values * n_bytes)

    def _entries(
        self,
        described: Mapping[str, tuple[str, tuple[int, ...], int, int]],
        metadata: Mapping[str, Value],
    ) -> dict[str, GgufEntry]:
        """Byte ranges, which lie in the file and do not overlap."""
        alignment = metadata.get(ALIGNMENT_KEY, 32)
        if type(alignment) is not int or not 0 < alignment <= MAX_ALIGNMENT:
            raise ValueError(f"its alignment is {alignment!r:.50}")
        start = -(-self._at // alignment) * alignment
        entries: dict[str, GgufEntry] = {}
        end_before = start
        for name, (kind, shape, offset, n_bytes) in sorted(
            described.items(), key=lambda item: item[1][2]
        ):
            begin = start + offset
            if offset % alignment or begin < end_before or begin + n_bytes > self._size:
                raise ValueError(
                    f"{name[:100]!r} has {n_bytes} bytes at {begin}, which overlap another tensor "
                    f"or the end of the file ({self._size} bytes)"
                )
            end_before = begin + n_bytes
            entries[name] = GgufEntry(kind, shape, begin, end_before)
        return entries

    # ---------------------------------------------------------------- values

    def _value(self, code: int) -> Value:
        if code == _TEXT:
            return self._text(MAX_TEXT_BYTES)
        if code == _ARRAY:
            return self._array()
        if code not in _SCALARS:
            raise ValueError(f"a value has the unknown type {code}")
        value: bool | int | float = struct.unpack_from(
            _SCALARS[code], self._take(struct.calcsize(_SCALARS[code]))
        )[0]
        return value

    def _array(self) -> list[bool] | list[int] | list[float] | list[str]:
        code, count = self._number("<I"), self._count(MAX_ITEMS)
        if code == _TEXT:
            return self._texts(count)
        if code not in _SCALARS:
            raise ValueError("an array has items of an unknown type, or arrays")
        letter = _SCALARS[code][1:]
        return list(struct.unpack(f"<{count}{letter}", self._take(count * struct.calcsize(letter))))

    def _texts(self, count: int) -> list[str]:
        """Many short texts, with few calls for each."""
        if count * 8 > self._size - self._at:
            raise ValueError(f"an array of {count} texts is longer than the file")
        content, at, size = self._content, self._at, self._size
        unpack: Callable[..., tuple[int]] = struct.Struct("<Q").unpack_from
        texts = []
        for _ in range(count):
            (length,) = unpack(content, at)
            begin = at + 8
            at = begin + length
            if length > MAX_TEXT_BYTES or at > size:
                raise ValueError(f"a text of {length} bytes does not fit into the file")
            texts.append(content[begin:at].decode("utf-8"))
        self._at = at
        return texts

    def _text(self, limit: int) -> str:
        length = self._number("<Q")
        if length > limit:
            raise ValueError(f"a text has {length} bytes")
        return self._bytes(length).decode("utf-8")

    def _count(self, limit: int) -> int:
        count = self._number("<Q")
        if count > limit:
            raise ValueError(f"it states {count} items, at most {limit} are possible")
        return count

    def _number(self, form: str) -> int:
        value: int = struct.unpack(form, self._take(struct.calcsize(form)))[0]
        return value

    def _bytes(self, n: int) -> bytes:
        return bytes(self._take(n))

    def _take(self, n: int) -> bytes:
        if n > self._size - self._at:
            raise ValueError(f"it ends after {self._size} bytes, within its header")
        self._at += n
        return self._content[self._at - n : self._at]
