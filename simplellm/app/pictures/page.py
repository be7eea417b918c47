"""The parts that all pictures share: title, summary, legend, and the page around them."""

from __future__ import annotations

from collections.abc import Sequence

from simplellm.app.results import Mark
from simplellm.app.sanitize import visible
from simplellm.app.shading import RGB, background, foreground
from simplellm.evaluation.picture import svg

TOP = 72  # below the title
LINE = 24  # height of a line of the summary
SUMMARY_SIZE = 15
LEGEND_HEIGHT = 30
INNER_WIDTH = svg.WIDTH - 2 * svg.MARGIN
SANS_SHARE = 0.85  # width of a text in SANS, relative to MONO, which `svg.width_of` assumes


def page(
    title: str,
    parts: Sequence[str],
    bottom: float,
    summary: str,
    legend: Sequence[Mark] = (),
    width: float = svg.WIDTH,
) -> str:
    """A picture: the title, `parts`, which end at `bottom`, and below them legend and summary."""
    title = visible(title)
    below: list[str] = []
    y = bottom
    if legend:
        below += _legend(legend, y + 8)
        y += LEGEND_HEIGHT + 16
    for words in _lines(summary, width):
        y += LINE
        below.append(svg.text(svg.MARGIN, y - 6, words, size=SUMMARY_SIZE))
    room = (width - 2 * svg.MARGIN) / SANS_SHARE
    heading = svg.fitted(title, room, svg.TITLE_SIZE)
    head = svg.text(svg.MARGIN, 42, heading, "title", svg.TITLE_SIZE)
    return svg.document(width, round(y + svg.MARGIN), title, [head, *parts, *below])


def _lines(summary: str, width: float) -> list[str]:
    room = (width - 2 * svg.MARGIN) / SANS_SHARE
    return svg.wrapped(visible(summary), room, SUMMARY_SIZE) if summary else []


def _legend(legend: Sequence[Mark], y: float) -> list[str]:
    parts = []
    x = float(svg.MARGIN)
    for mark in legend:
        width = svg.width_of(mark.text, SUMMARY_SIZE) + 12
        if mark.level is None:
            parts.append(svg.text(x, y + 18, mark.text.strip(), size=SUMMARY_SIZE))
            x += width * SANS_SHARE
            continue
        ink = color(foreground(background(mark.level)))
        parts += shaded(x, y, width, LEGEND_HEIGHT - 4, mark.level)
        words = mark.text.strip()
        parts.append(svg.text(x + width / 2, y + 18, words, ink, SUMMARY_SIZE, "middle"))
        x += width
    return parts


def shaded(
    x: float, y: float, width: float, height: float, level: float, title: str = ""
) -> list[str]:
    """A rectangle in the colour of `level`, the same on light and dark pages."""
    return [svg.rect(x, y, width, height, color(background(level)), 3, title)]


def color(rgb: RGB) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb)
