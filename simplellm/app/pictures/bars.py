"""Candidate tokens as a picture: two bars for each, before and after the sampling settings."""

from __future__ import annotations

from collections.abc import Iterator

from simplellm.app.bar_chart import percent
from simplellm.app.pictures.page import INNER_WIDTH, TOP, page
from simplellm.app.results import Bar, Bars
from simplellm.app.sanitize import visible
from simplellm.evaluation.picture import svg

MOST_ROWS = 40
ROW_HEIGHT, BAR_HEIGHT, HEAD_HEIGHT = 38, 24, 34
NAME_WIDTH, SHARE_WIDTH, GAP = 200, 70, 24
ROLES = ("first", "second")
COLUMN_WIDTH = (INNER_WIDTH - NAME_WIDTH - 2 * GAP) / 2


def bars_svg(bars: Bars) -> str:
    """All bars have the same scale."""
    rows = bars.rows[:MOST_ROWS]
    highest = max((share for row in rows for share in (row.before, row.after or 0)), default=0) or 1
    parts = [_header(bars.headers)]
    for number, row in enumerate(rows):
        parts += _row(row, TOP + HEAD_HEIGHT + number * ROW_HEIGHT, highest)
    summary = bars.summary
    if len(bars.rows) > MOST_ROWS:
        summary += f"; the first {MOST_ROWS} of {len(bars.rows):,} are drawn"
    return page(bars.title, parts, TOP + HEAD_HEIGHT + len(rows) * ROW_HEIGHT, summary)


def _header(headers: tuple[str, str, str]) -> str:
    titles = [svg.text(svg.MARGIN, TOP + 16, headers[0])]
    for number, title in enumerate(headers[1:]):
        titles.append(svg.rect(_left(number), TOP + 4, 14, 14, ROLES[number]))
        titles.append(svg.text(_left(number) + 22, TOP + 16, title))
    return "".join(titles)


def _row(row: Bar, y: float, highest: float) -> Iterator[str]:
    name = svg.fitted(visible(row.name), NAME_WIDTH, svg.SIZE)
    yield svg.text(svg.MARGIN, y + 18, name, "title", family=svg.MONO)
    for number, share in enumerate((row.before, row.after)):
        width = (share or 0) / highest * (COLUMN_WIDTH - SHARE_WIDTH)
        left = _left(number)
        if share:
            yield svg.rect(left, y, max(width, 1), BAR_HEIGHT, ROLES[number], 2)
        yield svg.text(left + width + 8, y + 18, percent(share))


def _left(number: int) -> float:
    return svg.MARGIN + NAME_WIDTH + GAP + number * (COLUMN_WIDTH + GAP)
