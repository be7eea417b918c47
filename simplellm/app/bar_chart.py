"""Bar charts of candidate tokens as lines of text. Pure functions of data and a width."""

from __future__ import annotations

import math
from collections.abc import Callable

from simplellm.app.results import Bars

BLOCKS = " \u258f\u258e\u258d\u258c\u258b\u258a\u2589\u2588"  # a cell from empty to full
ASCII_BLOCKS = " #"
BARS_FROM_COLUMNS = 44  # width from which the two bars of a candidate are side by side
SHARE_COLUMNS = 7  # ` 100.0%`


def bar_lines(
    bars: Bars, columns: int, cells: Callable[[str], int] = len, ascii_only: bool = False
) -> list[str]:
    """The chart for a terminal with this many columns. All bars have the same scale.

    `cells` gives the width of a text on the terminal.
    """
    is_narrow = columns < BARS_FROM_COLUMNS
    names = [bars.headers[0], *(row.name for row in bars.rows)]
    name_columns = min(max(map(cells, names)), columns if is_narrow else columns // 4)
    names = [fitted(name, name_columns, cells, ascii_only) for name in names]
    free = columns - 1 if is_narrow else (columns - name_columns - 4) // 2
    bar_columns = free - SHARE_COLUMNS
    shares = [share for row in bars.rows for share in (row.before, row.after or 0)]
    highest = max(shares, default=0) or 1
    pairs = [
        [_bar(share, highest, max(bar_columns, 1), ascii_only) for share in (row.before, row.after)]
        for row in bars.rows
    ]
    if is_narrow:
        return [
            line
            for name, pair in zip(names[1:], pairs, strict=True)
            for line in (name.rstrip(), *(f" {bar}" for bar in pair))
        ]
    titles = [fitted(title, free, cells, ascii_only) for title in bars.headers[1:]]
    head = "  ".join([names[0], *titles])
    rows = ["  ".join([name, *pair]) for name, pair in zip(names[1:], pairs, strict=True)]
    return [head.rstrip(), *rows]


def percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _bar(share: float | None, highest: float, columns: int, ascii_only: bool) -> str:
    """A bar and its percentage, always of the same width."""
    blocks = ASCII_BLOCKS if ascii_only else BLOCKS
    parts = len(blocks) - 1
    n = math.ceil((share or 0) / highest * columns * parts)
    filled = blocks[-1] * (n // parts) + (blocks[n % parts] if n % parts else "")
    return filled.ljust(columns) + percent(share).rjust(SHARE_COLUMNS)


def fitted(text: str, columns: int, cells: Callable[[str], int], ascii_only: bool = False) -> str:
    """`text` with exactly this width: filled with spaces, or cut with dots."""
    if cells(text) > columns:
        dots = "." if ascii_only else "\u2026"
        while text and cells(text + dots) > columns:
            text = text[:-1]
        text += dots if columns else ""
    return text + " " * (columns - cells(text))
