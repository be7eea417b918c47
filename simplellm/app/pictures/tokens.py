"""Shaded tokens as a picture: each in a box of its colour, with its label below."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from simplellm.app import shading
from simplellm.app.pictures.page import INNER_WIDTH, TOP, color, page, shaded
from simplellm.app.results import Mark, Tokens
from simplellm.app.sanitize import visible
from simplellm.evaluation.picture import svg

SIZE, LABEL_SIZE = 19, 12
BOX_HEIGHT, ROW_HEIGHT = 48, 56
PADDING, GAP = 4, 2
MOST_ROWS = 40


@dataclass(frozen=True)
class Box:
    """A piece of a token on one row; `label` is empty except on its last piece."""

    text: str
    level: float | None
    label: str
    x: float
    width: float
    row: int


def tokens_svg(tokens: Tokens) -> str:
    boxes = list(placed(tokens.marks))
    n_rows = min(max((box.row for box in boxes), default=0) + 1, MOST_ROWS)
    parts = [part for box in boxes if box.row < n_rows for part in _drawn(box)]
    summary = tokens.summary
    if boxes and boxes[-1].row >= n_rows:
        summary += f"; only the first {n_rows} rows are drawn"
    return page(tokens.title, parts, TOP + n_rows * ROW_HEIGHT, summary, tokens.legend)


def placed(marks: tuple[Mark, ...]) -> Iterator[Box]:
    """The boxes of all tokens, from left to right and from row to row."""
    x, row = 0.0, 0
    for mark in marks:
        safe = Mark(visible(mark.text), mark.level, visible(mark.label))
        for piece, label, ends_row in _pieces(safe):
            width = max(svg.width_of(piece, SIZE), svg.width_of(label, LABEL_SIZE)) + 2 * PADDING
            if x and x + width > INNER_WIDTH:
                x, row = 0.0, row + 1
            if piece:
                yield Box(piece, mark.level, label, x, width, row)
                x += width + GAP
            if ends_row:
                x, row = 0.0, row + 1


def _pieces(mark: Mark) -> Iterator[tuple[str, str, bool]]:
    """Pieces of a token that fit a row: text, label, and whether a line ends after it."""
    lines = mark.text.replace("\n", shading.LINE_END + "\n").split("\n")
    for number, line in enumerate(lines):
        is_last_line = number == len(lines) - 1 or not any(lines[number + 1 :])
        parts = _cut(line, INNER_WIDTH - 2 * PADDING)
        for part in parts:
            has_label = is_last_line and part is parts[-1]
            ends_row = part is parts[-1] and number < len(lines) - 1
            yield part, mark.label if has_label and part else "", ends_row


def _cut(line: str, width: float) -> list[str]:
    """`line` in parts that are at most `width` wide."""
    parts = [""]
    used = 0.0
    for character in line:
        own = svg.width_of(character, SIZE)
        if parts[-1] and used + own > width:
            parts.append("")
            used = 0.0
        parts[-1] += character
        used += own
    return parts


def _drawn(box: Box) -> Iterator[str]:
    x, y = svg.MARGIN + box.x, TOP + box.row * ROW_HEIGHT
    ink = "ink"
    if box.level is not None:
        yield from shaded(x, y, box.width, BOX_HEIGHT, box.level)
        ink = color(shading.foreground(shading.background(box.level)))
    # Renderers treat leading spaces differently, so the text begins at its first letter.
    indent = svg.width_of(box.text[: len(box.text) - len(box.text.lstrip())], SIZE)
    words = box.text.strip()
    if words:
        yield svg.text(x + PADDING + indent, y + 22, words, ink, SIZE, family=svg.MONO)
    if box.label:
        yield svg.text(x + box.width / 2, y + 41, box.label, ink, LABEL_SIZE, "middle")
