"""Suggestions for a mistyped name."""

from __future__ import annotations

from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str], *, prefix: str = "", otherwise: str) -> str:
    """The advice for an unknown name: `did you mean NAME?` with the most similar known name.

    `prefix` is shown before the name. Returns `otherwise` if no known name is similar.
    """
    import difflib  # takes a while to import, and only a mistake needs it

    similar = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {prefix}{similar[0]}?" if similar else otherwise
