"""GGUF headers: what they state is checked before anything is allocated."""

from __future__ import annotations

import random
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from simplellm.errors import CheckpointError
from simplellm.storage.gguf_header import GgufEntry, read_gguf_header

TEXT, ARRAY, UINT32 = 8, 9, 4


def text(value: str | bytes, length: int | None = None) -> bytes:
    content = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(content) if length is None else length) + content


def entry(key: str, code: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", code) + value


def array(code: int, count: int, items: bytes) -> bytes:
    return struct.pack("<IQ", code, count) + items


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    """As in the header; `shape` with rows first."""
    dimensions = b"".join(struct.pack("<Q", size) for size in reversed(shape))
    return (
        text(name) + struct.pack("<I", len(shape)) + dimensions + struct.pack("<IQ", kind, offset)
    )


def gguf_file(
    entries: list[bytes],
    tensors: list[bytes],
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_tensors: int | None = None,
    n_entries: int | None = None,
) -> bytes:
    n_tensors = len(tensors) if n_tensors is None else n_tensors
    n_entries = len(entries) if n_entries is None else n_entries
    header = magic + struct.pack("<IQQ", version, n_tensors, n_entries)
    header += b"".join(entries) + b"".join(tensors)
    return header + bytes(-len(header) % 32) + data


ENTRIES = [
    entry("general.architecture", TEXT, text("llama")),
    entry("n", UINT32, struct.pack("<I", 7)),
    entry("tokens", ARRAY, array(TEXT, 2, text("a") + text("한"))),
    entry("types", ARRAY, array(5, 3, struct.pack("<3i", 1, -1, 3))),
]
TENSORS = [tensor("a", (2, 3)), tensor("b", (2, 32), 2, 32)]
DATA = bytes(32 + 36)
VALID = gguf_file(ENTRIES, TENSORS, DATA)
HUGE = 1 << 60
HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "another magic": gguf_file(ENTRIES, TENSORS, DATA, magic=b"GGML"),
    "version 1": gguf_file(ENTRIES, TENSORS, DATA, version=1),
    "big-endian": gguf_file(ENTRIES, TENSORS, DATA, version=3 << 24),
    "too many tensors": gguf_file(ENTRIES, TENSORS, DATA, n_tensors=HUGE),
    "too few tensors": gguf_file(ENTRIES, TENSORS, DATA, n_tensors=60_000),
    "too many entries": gguf_file(ENTRIES, TENSORS, DATA, n_entries=HUGE),
    "too few entries": gguf_file(ENTRIES, TENSORS, DATA, n_entries=60_000),
    "a key of 2^60 bytes": gguf_file([text(b"k", HUGE)], [], n_entries=1),
    "a text of 2^60 bytes": gguf_file([entry("k", TEXT, text("v", HUGE))], []),
    "a text that is not UTF-8": gguf_file([entry("k", TEXT, text(b"\xff\xfe"))], []),
    "a key twice": gguf_file([ENTRIES[1], ENTRIES[1]], []),
    "an unknown value": gguf_file([entry("k", 99, b"")], []),
    "an array of 2^60 numbers": gguf_file([entry("k", ARRAY, array(4, HUGE, b""))], []),
    "an array of 2^22 numbers": gguf_file([entry("k", ARRAY, array(4, 1 << 22, b""))], []),
    "an array of 2^60 texts": gguf_file([entry("k", ARRAY, array(TEXT, HUGE, b""))], []),
    "an array of 2^22 texts": gguf_file([entry("k", ARRAY, array(TEXT, 1 << 22, b""))], []),
    "a long text in an array": gguf_file(
        [entry("k", ARRAY, array(TEXT, 1, text("v", HUGE)))], [], bytes(64)
    ),
    "arrays of arrays": gguf_file(
        [entry("k", ARRAY, array(ARRAY, 1, array(ARRAY, 1, array(4, 0, b""))))], []
    ),
    "an array of unknown items": gguf_file([entry("k", ARRAY, array(77, 1, b""))], []),
    "no dimensions": gguf_file(ENTRIES, [tensor("a", ())], DATA),
    "five dimensions": gguf_file(ENTRIES, [tensor("a", (1, 1, 1, 1, 1))], DATA),
    "no values": gguf_file(ENTRIES, [tensor("a", (0, 3))], DATA),
    "2^60 values": gguf_file(ENTRIES, [tensor("a", (HUGE,))], DATA),
    "a product over 2^64": gguf_file(ENTRIES, [tensor("a", (1 << 33, 1 << 33))], DATA),
    "an unknown number format": gguf_file(ENTRIES, [tensor("a", (2, 3), 16)], DATA),
    "rows that are no blocks": gguf_file(ENTRIES, [tensor("a", (2, 31), 2)], DATA),
    "a tensor twice": gguf_file(ENTRIES, [tensor("a", (2,)), tensor("a", (2,), 0, 32)], DATA),
    "overlapping tensors": gguf_file(ENTRIES, [TENSORS[1], tensor("b2", (2, 3), 0, 32)], DATA),
    "a tensor behind the end": gguf_file(ENTRIES, [tensor("a", (2, 3), 0, 1 << 40)], DATA),
    "an offset of 2^63": gguf_file(ENTRIES, [tensor("a", (2, 3), 0, 1 << 63)], DATA),
    "an offset between": gguf_file(ENTRIES, [tensor("a", (2, 3), 0, 4)], DATA),
    "alignment 0": gguf_file(
        [entry("general.alignment", UINT32, bytes(4))], [tensor("a", (2, 3))], DATA
    ),
    "alignment is a text": gguf_file(
        [entry("general.alignment", TEXT, text("32"))], [tensor("a", (2, 3))], DATA
    ),
}


def read(folder: Path, content: bytes) -> Any:
    (folder / "x.gguf").write_bytes(content)
    return read_gguf_header(folder / "x.gguf")


def test_a_valid_header_gives_metadata_and_byte_ranges(tmp_path: Path) -> None:
    header = read(tmp_path, VALID)
    start = len(VALID) - len(DATA)
    assert header.metadata == {
        "general.architecture": "llama", "n": 7, "tokens": ["a", "한"], "types": [1, -1, 3],
    }  # fmt: skip
    assert header.tensors == {
        "a": GgufEntry("F32", (2, 3), start, start + 24),
        "b": GgufEntry("Q4_0", (2, 32), start + 32, start + 68),
    }


@pytest.mark.parametrize("what", HOSTILE)
def test_an_inconsistent_header_is_refused_without_allocating(tmp_path: Path, what: str) -> None:
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=r"is not a valid GGUF file: .") as caught:
        read(tmp_path, HOSTILE[what])
    assert tracemalloc.get_traced_memory()[1] < 1 << 20 and len(str(caught.value)) < 600
    tracemalloc.stop()


def test_a_file_that_ends_anywhere_too_early_is_refused(tmp_path: Path) -> None:
    for length in range(len(VALID)):
        with pytest.raises(CheckpointError):
            read(tmp_path, VALID[:length])


def test_changed_bytes_give_one_typed_error_or_a_header(tmp_path: Path) -> None:
    draw = random.Random(6)
    header = len(VALID) - len(DATA)
    refused = 0
    for _ in range(2_000):
        content = bytearray(VALID)
        for _ in range(draw.randint(1, 3)):
            content[draw.randrange(4, header)] = draw.choice([0, 1, 127, 255, draw.randrange(256)])
        try:
            read(tmp_path, bytes(content))
        except CheckpointError:
            refused += 1
    assert refused > 1_000


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read .*none.gguf: No such file"):
        read_gguf_header(tmp_path / "none.gguf")
