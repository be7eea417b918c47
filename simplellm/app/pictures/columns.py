"""Texts side by side as a picture."""

from __future__ import annotations

from simplellm.app.pictures.page import INNER_WIDTH, SANS_SHARE, TOP, page
from simplellm.app.results import Columns
from simplellm.app.sanitize import visible
from simplellm.evaluation.picture import svg

MOST_BESIDE = 4  # more texts begin a new row
LINE, HEAD, GAP = 24, 34, 28
MOST_LINES = 40


def columns_svg(columns: Columns) -> str:
    n = max(len(columns.texts), 1)
    beside = min(n, MOST_BESIDE)
    width = (INNER_WIDTH - (beside - 1) * GAP) / beside
    parts: list[str] = []
    y = float(TOP)
    for first in range(0, len(columns.texts), beside):
        row = range(first, min(first + beside, len(columns.texts)))
        texts = [_lines(columns.texts[number], width) for number in row]
        for place, number in enumerate(row):
            x = svg.MARGIN + place * (width + GAP)
            parts += _column(x, y, width, columns.headers[number], texts[place])
        y += HEAD + max(map(len, texts)) * LINE + GAP
    return page(columns.title, parts, y, columns.summary)


def _lines(text: str, width: float) -> list[str]:
    lines = svg.wrapped(visible(text), width / SANS_SHARE)
    return lines if len(lines) <= MOST_LINES else [*lines[:MOST_LINES], "\u2026"]


def _column(x: float, y: float, width: float, header: str, lines: list[str]) -> list[str]:
    shown = svg.fitted(visible(header), width / SANS_SHARE)
    return [
        svg.text(x, y + 14, shown, "title", bold=True),
        svg.line(x, y + 22, x + width, y + 22, "axis"),
        *(
            svg.text(x, y + HEAD + 14 + number * LINE, words.rstrip())
            for number, words in enumerate(lines)
            if words.strip()
        ),
    ]
