"""Attention of each token to each token as a picture: a triangle of shaded squares."""

from __future__ import annotations

from collections.abc import Iterator

from simplellm.app.pictures.page import INNER_WIDTH, TOP, color, page, shaded
from simplellm.app.results import Matrix
from simplellm.app.sanitize import visible
from simplellm.app.shading import background, foreground
from simplellm.evaluation.picture import svg

LABEL_WIDTH = 120  # of the names on the left and at the top
LARGEST_CELL, SMALLEST_CELL = 44, 11
NUMBER_FROM_CELL = 30  # size from which a square shows its share
LARGEST_SIZE = 16
FEWEST_PERCENT = 0.005  # share that is shown as a number


def matrix_svg(matrix: Matrix) -> str:
    n = max(len(matrix.names), 1)
    cell = min(max((INNER_WIDTH - LABEL_WIDTH) / n, SMALLEST_CELL), LARGEST_CELL)
    size = min(LARGEST_SIZE, cell - 2)
    names = [svg.fitted(visible(name), LABEL_WIDTH - 10, size) for name in matrix.names]
    room = max((svg.width_of(name, size) for name in names), default=0) + 10
    left, top = svg.MARGIN + room, TOP + room
    parts = []
    for i, name in enumerate(names):
        y = top + i * cell
        middle = y + cell / 2 + size / 3
        parts.append(svg.text(left - 8, middle, name, size=size, anchor="end", family=svg.MONO))
        x = left + i * cell + cell / 2 + size / 3
        parts.append(svg.upward_text(x, top - 8, name, size, "start", svg.MONO))
        for j in range(i + 1):
            what = f"{name} \u2192 {names[j]}: {matrix.rows[i][j]:.1%}"
            parts += _cell(left + j * cell, y, cell, matrix.rows[i][j], what)
    width = max(svg.WIDTH, left + n * cell + svg.MARGIN)
    bottom = top + n * cell + 12
    return page(matrix.title, parts, bottom, matrix.summary, matrix.legend, width)


def _cell(x: float, y: float, cell: float, share: float, what: str) -> Iterator[str]:
    level = share**0.5
    yield from shaded(x, y, cell - 1, cell - 1, level, what)
    if cell >= NUMBER_FROM_CELL and share >= FEWEST_PERCENT:
        ink = color(foreground(background(level)))
        size = cell / 3
        yield svg.text(x + cell / 2, y + cell / 2 + size / 3, f"{share:.0%}", ink, size, "middle")
