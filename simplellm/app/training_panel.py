"""The training screen as lines of styled text: pure functions of figures and a width. No terminal and no rich here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from simplellm.evaluation.curves import LossCurves, Point

Span = tuple[str, str]  # text, style
Line = list[Span]
CURVE_ROWS, FEWEST_CURVE_ROWS = 7, 3
FEWEST_CURVE_COLUMNS = 12
SAMPLE_LINES = 4
EARLY_SHARE = 0.05  # of the steps: the fall from the first loss would flatten all that follows
BRAILLE = 0x2800
BRAILLE_DOTS = (
    (0x01, 0x08),
    (0x02, 0x10),
    (0x04, 0x20),
    (0x40, 0x80),
)  # by row and column of a cell
HELD_OUT_MARK, BEST_MARK = (
    "o",
    "*",
)  # letters, so that they differ from the curve without colour too
STYLES = {"train": "cyan", HELD_OUT_MARK: "yellow", BEST_MARK: "bold green"}


@dataclass
class View:
    """What the panel shows: the newest step and evaluation, the losses so far, and the newest sample."""

    curves: LossCurves = field(default_factory=LossCurves)
    step: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)

    def add(self, record: Mapping[str, Any]) -> None:
        if record["kind"] == "restart":
            self.curves, self.step, self.evaluation = LossCurves(), {}, {}
        self.curves.add(record)
        if record["kind"] == "step":
            self.step = record
        elif record["kind"] == "evaluation":
            self.evaluation = record

    @property
    def sample(self) -> str:
        return str(self.evaluation.get("sample") or "")


def panel_lines(
    view: View, sample: Sequence[str], columns: int, rows: int, ascii_only: bool = False
) -> list[Line]:
    """The panel for a terminal of that size. `sample` is the sample's text, made harmless and wrapped already."""
    top = [bar(view.step, columns, ascii_only), *flow(figures(view), columns)]
    bottom: list[Line] = [[(line, "italic")] for line in sample[:SAMPLE_LINES]]
    left = rows - len(top) - len(bottom) - 2  # the curve's legend, and the line the cursor is on
    has_curve = (
        left >= FEWEST_CURVE_ROWS and columns >= FEWEST_CURVE_COLUMNS and len(view.curves.train) > 1
    )
    curve = (
        curve_lines(view.curves, columns, min(left, CURVE_ROWS), ascii_only) if has_curve else []
    )
    return [*top, *curve, *bottom]


def bar(step: Mapping[str, Any], columns: int, ascii_only: bool = False) -> Line:
    """Progress, as wide as the panel."""
    share = step["step"] / max(step["max_steps"], 1) if step else 0.0
    percent = f" {share:4.0%}"
    done = round(share * max(columns - len(percent), 1))
    full, empty = ("#", "-") if ascii_only else ("\u2501", "\u2500")
    return [
        (full * done, "green"),
        (empty * max(columns - len(percent) - done, 0), "dim"),
        (percent, "bold"),
    ]


def figures(view: View) -> list[Line]:
    """Every figure that is known, as `name value`."""
    step, evaluation, best = view.step, view.evaluation, view.curves.best
    known: list[tuple[str, str]] = []
    if step:
        known += [
            ("step", f"{step['step']:,}/{step['max_steps']:,}"),
            ("epoch", f"{step['epoch']:.1f}"),
            ("left", duration(seconds_left(step))),
            ("train loss", f"{step['loss']:.3f}"),
        ]
    if evaluation and best:
        known += [
            ("held-out", f"{evaluation['loss']:.3f}"),
            ("best", f"{best[1]:.3f}"),
            ("at step", f"{best[0]:,}"),
            ("perplexity", f"{evaluation['perplexity']:.4g}"),
            ("accuracy", f"{evaluation['accuracy']:.1%}"),
            ("bits/byte", f"{evaluation['bits_per_byte']:.3f}"),
        ]
    if step:
        known += [
            ("rate", f"{step['learning_rate']:.2g}"),
            ("gradient", f"{step['gradient_norm']:.2f}"),
            ("tokens/s", f"{step['tokens_per_second']:,.0f}"),
            ("memory", f"{step['memory_bytes'] / 2**20:,.0f} MB"),
        ]
    return [[(f"{name} ", "dim"), (value, "bold")] for name, value in known]


def flow(parts: Iterable[Line], columns: int) -> list[Line]:
    """Parts side by side, two spaces between, on as many lines as they need; a part is never broken."""
    lines: list[Line] = []
    used = columns
    for part in parts:
        width = sum(len(text) for text, _ in part)
        if lines and used + 2 + width <= columns:
            lines[-1] += [("  ", ""), *part]
            used += 2 + width
        else:
            lines.append(list(part))
            used = width
    return lines


def seconds_left(step: Mapping[str, Any]) -> float:
    steps = step["max_steps"] - step["step"]
    return float(steps * step["tokens_per_step"] / max(step["tokens_per_second"], 1e-9))


def duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


# ---------------------------------------------------------------- the curve


def curve_lines(
    curves: LossCurves, columns: int, rows: int, ascii_only: bool = False
) -> list[Line]:
    """Training loss as a braille line, evaluations as marks over it, the best apart; losses stand at the left edge."""
    points = [*curves.train, *curves.validation]
    first, last = _range([step for step, _ in points])
    highest = max(loss for step, loss in points if step - first >= EARLY_SHARE * (last - first))
    low, high = _range([min(loss for _, loss in points), highest])
    labels = [f"{high:.2f} ", *[""] * (rows - 2), f"{low:.2f} "]
    margin = max(map(len, labels))
    width = columns - margin
    grid = braille(_heights(curves.train, first, last, low, high, 2 * width, 4 * rows), width, rows)
    if ascii_only:
        grid = [["." if cell != chr(BRAILLE) else " " for cell in row] for row in grid]
    marked = [(point, HELD_OUT_MARK) for point in curves.validation] + (
        [(curves.best, BEST_MARK)] if curves.best else []
    )
    for (step, loss), mark in marked:
        column = round((step - first) / (last - first) * (width - 1))
        row = _height(loss, low, high, rows)
        grid[row][column] = mark
    lines = [
        [(label.rjust(margin), "dim"), *_styled(row)]
        for label, row in zip(labels, grid, strict=True)
    ]
    legend: list[Line] = [
        [("." if ascii_only else "\u2836", STYLES["train"]), (" train", "dim")],
        [(HELD_OUT_MARK, STYLES[HELD_OUT_MARK]), (" held-out", "dim")],
        [(BEST_MARK, STYLES[BEST_MARK]), (" best", "dim")],
    ]
    return [*lines, *flow(legend, columns)[:1]]


def braille(heights: Sequence[int], columns: int, rows: int) -> list[list[str]]:
    """Cells of a line through `heights` (2 for each column, 0 at the top, under 4 for each row)."""
    cells = [[0] * columns for _ in range(rows)]
    before = heights[0]
    for x, height in enumerate(heights):
        for y in range(min(before, height), max(before, height) + 1):
            cells[y // 4][x // 2] |= BRAILLE_DOTS[y % 4][x % 2]
        before = height
    return [[chr(BRAILLE + cell) for cell in row] for row in cells]


def _heights(
    points: Sequence[Point], first: float, last: float, low: float, high: float, n: int, rows: int
) -> list[int]:
    """The curve at n places from `first` to `last`, each the mean of the points that are nearest."""
    binned: dict[int, list[float]] = defaultdict(list)
    for step, loss in points:
        binned[round((step - first) / (last - first) * (n - 1))].append(loss)
    known = [(place, sum(losses) / len(losses)) for place, losses in sorted(binned.items())]
    curve = [known[0][1]] * known[0][0]
    for (here, loss), (there, next_loss) in zip(
        known, [*known[1:], (n, known[-1][1])], strict=True
    ):
        curve += [loss + (next_loss - loss) * i / (there - here) for i in range(there - here)]
    return [_height(loss, low, high, rows) for loss in curve]


def _height(loss: float, low: float, high: float, rows: int) -> int:
    return round((high - min(max(loss, low), high)) / (high - low) * (rows - 1))


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest, never equal."""
    return min(values), max(max(values), min(values) + 1e-3)


def _styled(row: Sequence[str]) -> Line:
    """One span for each run of cells of one style."""
    line: Line = []
    for cell in row:
        style = STYLES.get(cell, STYLES["train"])
        if line and line[-1][1] == style:
            line[-1] = (line[-1][0] + cell, style)
        else:
            line.append((cell, style))
    return line
