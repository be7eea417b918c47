"""The loss chart of the training panel: training loss as a braille curve, validation as marks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from simplellm.app.styled_lines import Line, flow
from simplellm.evaluation.curves import LossCurves, Point

FEWEST_ROWS = 3
FEWEST_COLUMNS = 12
BRAILLE = 0x2800
BRAILLE_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # by row and column
VALIDATION_MARK = "o"  # letters, which differ from the curve without colours too
BEST_MARK = "*"
STYLES = {"train": "cyan", VALIDATION_MARK: "yellow", BEST_MARK: "bold green"}


def chart_lines(
    curves: LossCurves, columns: int, rows: int, ascii_only: bool = False
) -> list[Line]:
    """The chart of this size and its legend. The highest and lowest loss are at the left."""
    first, last, low, high = _limits(curves)
    labels = [f"{high:.2f} ", *[""] * (rows - 2), f"{low:.2f} "]
    margin = max(map(len, labels))
    width = columns - margin
    heights = _heights(curves.train, (first, last), (low, high), 2 * width, 4 * rows)
    grid = braille(heights, width, rows)
    if ascii_only:
        grid = [["." if cell != chr(BRAILLE) else " " for cell in row] for row in grid]
    marked = [(point, VALIDATION_MARK) for point in curves.validation]
    if curves.best:
        marked.append((curves.best, BEST_MARK))
    for (step, loss), mark in marked:
        column = round((step - first) / (last - first) * (width - 1))
        grid[_height(loss, low, high, rows)][column] = mark
    lines = [
        [(label.rjust(margin), "dim"), *_styled(row)]
        for label, row in zip(labels, grid, strict=True)
    ]
    return [*lines, *flow(_legend(ascii_only), columns)[:1]]


def _limits(curves: LossCurves) -> tuple[float, float, float, float]:
    """First and last step, lowest and highest loss of the chart."""
    points = [*curves.train, *curves.validation]
    first, last = _range([step for step, _ in points])
    low, high = _range([loss for _, loss in points])
    return first, last, low, high


def _legend(ascii_only: bool) -> list[Line]:
    return [
        [("." if ascii_only else "\u2836", STYLES["train"]), (" train", "dim")],
        [(VALIDATION_MARK, STYLES[VALIDATION_MARK]), (" validation", "dim")],
        [(BEST_MARK, STYLES[BEST_MARK]), (" best", "dim")],
        [("loss in nats/token, lower is better", "dim")],
    ]


def braille(heights: Sequence[int], columns: int, rows: int) -> list[list[str]]:
    """Cells of a line through `heights`: 2 per column, from 0 (top) to less than 4 * rows."""
    cells = [[0] * columns for _ in range(rows)]
    before = heights[0]
    for x, height in enumerate(heights):
        for y in range(min(before, height), max(before, height) + 1):
            cells[y // 4][x // 2] |= BRAILLE_DOTS[y % 4][x % 2]
        before = height
    return [[chr(BRAILLE + cell) for cell in row] for row in cells]


def _heights(
    points: Sequence[Point],
    steps: tuple[float, float],
    losses: tuple[float, float],
    n: int,
    rows: int,
) -> list[int]:
    """The curve at `n` places between the first and last step.

    Each value is the mean of the nearest points; places without points are interpolated.
    """
    first, last = steps
    binned: dict[int, list[float]] = defaultdict(list)
    for step, loss in points:
        binned[round((step - first) / (last - first) * (n - 1))].append(loss)
    known = [(place, sum(values) / len(values)) for place, values in sorted(binned.items())]
    curve = [known[0][1]] * known[0][0]
    following = [*known[1:], (n, known[-1][1])]
    for (here, loss), (there, next_loss) in zip(known, following, strict=True):
        curve += [loss + (next_loss - loss) * i / (there - here) for i in range(there - here)]
    return [_height(loss, *losses, rows) for loss in curve]


def _height(loss: float, low: float, high: float, rows: int) -> int:
    return round((high - min(max(loss, low), high)) / (high - low) * (rows - 1))


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest, never equal."""
    return min(values), max(max(values), min(values) + 1e-3)


def _styled(row: Sequence[str]) -> Line:
    """One span for each run of cells with the same style."""
    line: Line = []
    for cell in row:
        style = STYLES.get(cell, STYLES["train"])
        if line and line[-1][1] == style:
            line[-1] = (line[-1][0] + cell, style)
        else:
            line.append((cell, style))
    return line
