"""UTF-8 of any Python string, also of one with lone surrogates (invalid bytes of a terminal)."""

from __future__ import annotations


def encodable(text: str) -> str:
    """`text` with each lone surrogate replaced by "?", because UTF-8 cannot encode it."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def utf8_length(text: str) -> int:
    """Number of UTF-8 bytes of `encodable(text)`."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
