"""A matrix of attention as lines of shaded numbers. Pure functions of data and a width."""

from __future__ import annotations

from collections.abc import Callable

from simplellm.app.bar_chart import fitted
from simplellm.app.results import Matrix
from simplellm.app.shading import Span

CELL_COLUMNS = 4
MOST_NAME_COLUMNS = 14
Line = list[Span]


def n_fitting(matrix: Matrix, columns: int, cells: Callable[[str], int] = len) -> int:
    """How many tokens, the last ones, a terminal with this many columns can show."""
    free = columns - _name_columns(matrix, cells) - CELL_COLUMNS
    return min(max(free // CELL_COLUMNS, 1), len(matrix.names))


def matrix_lines(
    matrix: Matrix, columns: int, cells: Callable[[str], int] = len, ascii_only: bool = False
) -> list[Line]:
    """A line for each of the last tokens: its number, its name, and its shares in percent.

    The numbers at the top stand for the tokens with these numbers.
    """
    n = n_fitting(matrix, columns, cells)
    first = len(matrix.names) - n
    width = _name_columns(matrix, cells)
    numbers = range(first + 1, len(matrix.names) + 1)
    indent = " " * (width + CELL_COLUMNS)
    lines: list[Line] = [
        [Span(indent + "".join(f"{number:>{CELL_COLUMNS}}" for number in numbers))]
    ]
    for number in numbers:
        name = fitted(matrix.names[number - 1], width, cells, ascii_only)
        shares = matrix.rows[number - 1][first:number]
        lines.append([Span(f"{number:>3} {name}"), *map(_cell, shares)])
    return lines


def _cell(share: float) -> Span:
    return Span(f"{share * 100:>{CELL_COLUMNS}.0f}", share**0.5)


def _name_columns(matrix: Matrix, cells: Callable[[str], int]) -> int:
    return min(max(map(cells, matrix.names), default=1), MOST_NAME_COLUMNS)
