"""GPT-2's alphabet: a printable character for each byte, as in the tokens of tokenizer.json."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

N_BYTES = 256


def _alphabet() -> dict[int, str]:
    """Each byte is itself if it is printable, else a character from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(N_BYTES) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {
        byte: chr(N_BYTES + i) for i, byte in enumerate(others)
    }


CHARACTER_OF_BYTE = _alphabet()
BYTE_OF_CHARACTER = {character: byte for byte, character in CHARACTER_OF_BYTE.items()}
_OTHER = N_BYTES  # in _BYTE_TABLE, of characters that are not in the alphabet
_BYTE_TABLE = np.full(max(map(ord, BYTE_OF_CHARACTER)) + 2, _OTHER, dtype=np.uint16)
_BYTE_TABLE[list(map(ord, BYTE_OF_CHARACTER))] = list(BYTE_OF_CHARACTER.values())


def to_characters(token: bytes) -> str:
    return "".join(map(CHARACTER_OF_BYTE.__getitem__, token))


def all_to_bytes(tokens: Sequence[str]) -> list[bytes | None]:
    """The inverse of `to_characters` for each token; None for a text with other characters."""
    text = "".join(tokens).encode("utf-32-le", "surrogatepass")
    characters = np.frombuffer(text, dtype="<u4")
    values = _BYTE_TABLE[np.minimum(characters, len(_BYTE_TABLE) - 1)]
    content = values.astype(np.uint8).tobytes()
    ends = np.cumsum(np.fromiter(map(len, tokens), dtype=np.int64, count=len(tokens))).tolist()
    contents: list[bytes | None] = [
        content[begin:end] for begin, end in zip([0, *ends], ends, strict=False)
    ]
    for place in np.unique(np.searchsorted(ends, np.flatnonzero(values == _OTHER), side="right")):
        contents[place] = None
    return contents
