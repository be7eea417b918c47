"""Lines of styled text, independent of the library that draws them."""

from __future__ import annotations

from collections.abc import Iterable

Span = tuple[str, str]  # text, style
Line = list[Span]
GAP = 2  # spaces between two parts


def flow(parts: Iterable[Line], columns: int) -> list[Line]:
    """Parts side by side, on as many lines as they need. A part is never broken."""
    lines: list[Line] = []
    used = columns
    for part in parts:
        width = sum(len(text) for text, _ in part)
        if lines and used + GAP + width <= columns:
            lines[-1] += [(" " * GAP, ""), *part]
            used += GAP + width
        else:
            lines.append(list(part))
            used = width
    return lines
