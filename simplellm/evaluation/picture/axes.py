"""Axes of a chart: scales, round ticks, and the grid with its labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from simplellm.evaluation.picture import svg

HEIGHT = 540
LEFT, RIGHT, TOP, BOTTOM = 96, 36, 64, 68  # margins
TICKS = 6  # per axis, approximately
LABEL_ROOM = 40  # below the lowest point, for the label of a marked one
HEADROOM = 0.03  # of the axis, above the highest point
LABEL_WIDTH = 200  # closer to an edge, a label is aligned with its end instead of its middle
LEAST_SPREAD = 0.01  # of the highest value: an axis shows at least this range
LABEL_CHARACTERS = 6  # of a number beside the vertical axis; the name of the axis is next to it
ZERO_SHARE = 0.25  # lowest to highest value, below which the axis begins at 0
Point = tuple[float, float]


@dataclass(frozen=True)
class Scale:
    """Maps values from `low` to `high` to pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (
            (math.log(number) if self.is_log else number) for number in (self.low, self.high, value)
        )
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        return log_ticks(self.low, self.high) if self.is_log else ticks(self.low, self.high)


@dataclass(frozen=True)
class Frame:
    """The two scales of a chart."""

    x: Scale
    y: Scale

    def place(self, point: Point) -> Point:
        return self.x(point[0]), self.y(point[1])

    def data(self, points: Sequence[Point]) -> str:
        """The points as the data of a path."""
        return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in map(self.place, points))


def frame_of(points: Sequence[Point], log_x: bool = False) -> Frame:
    """The frame that shows all points, with room below for a label."""
    places, values = [x for x, _ in points], [y for _, y in points]
    bottom = HEIGHT - BOTTOM
    low, high = _range(places, 1e-9 if log_x else 1.0)
    across = Scale(low if log_x else axis_start(low, high), high, LEFT, svg.WIDTH - RIGHT, log_x)
    low, high = _range(values, max(1e-2, LEAST_SPREAD * max(values)))
    room = (high - low) * LABEL_ROOM / (bottom - TOP - LABEL_ROOM)
    floor = axis_start(low, high) and max(low - room, min(low, 0.0))
    return Frame(across, Scale(floor, high + HEADROOM * (high - floor), bottom, TOP))


def axis_start(low: float, high: float) -> float:
    """0 if the lowest value is near it, compared with the range; else the lowest value."""
    return 0.0 if 0 <= low <= ZERO_SHARE * high else low


def _range(values: Sequence[float], least: float) -> tuple[float, float]:
    """Lowest and highest, at least `least` apart."""
    return min(values), max(max(values), min(values) + least)


def ticks(low: float, high: float, about: int = TICKS) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten from `low` to `high`."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    width = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    return [
        i * width for i in range(math.ceil(low / width - 1e-9), math.floor(high / width + 1e-9) + 1)
    ]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten from `low` to `high`; with 2 and 5 times each if there are few."""
    exponents = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    factors = (1,) if len(exponents) > TICKS / 2 else (1, 2, 5)
    found = [factor * 10.0**exponent for exponent in exponents for factor in factors]
    return [value for value in found if low <= value <= high]


def axes(frame: Frame, x_name: str, y_name: str) -> list[str]:
    """Grid, axes, ticks and the names of both axes."""
    bottom, right = HEIGHT - BOTTOM, svg.WIDTH - RIGHT
    values = frame.y.ticks()
    labels = _y_labels(values)
    places = frame.x.ticks()
    if not frame.x.is_log:
        places = [place for place in places if place == int(place)]
    return [
        *(svg.line(LEFT, frame.y(value), right, frame.y(value), "grid") for value in values),
        *(
            svg.text(LEFT - 10, frame.y(value) + 5, words, anchor="end")
            for value, words in labels.items()
        ),
        *(_x_label(frame.x, place, bottom) for place in places),
        svg.path(f"M{LEFT} {TOP}V{bottom}H{right}", "axis", 1.5),
        svg.text((LEFT + right) / 2, HEIGHT - 14, x_name, anchor="middle"),
        svg.upward_text(22, (TOP + bottom) / 2, y_name),
    ]


def _x_label(scale: Scale, place: float, bottom: float) -> str:
    words = f"{place:g}" if scale.is_log else f"{place:,.0f}"
    x = scale(place)
    tick = svg.line(x, bottom, x, bottom + 5, "axis")
    return tick + svg.text(x, bottom + 24, words, anchor="middle")


def _y_labels(values: Sequence[float]) -> dict[float, str]:
    """A short label for each value; values whose label would be the same share one."""
    exact = [f"{value:,.{_digits(values)}f}" for value in values]
    is_short = max(map(len, exact), default=0) <= LABEL_CHARACTERS
    words = exact if is_short else [f"{value:.2g}" for value in values]
    first = dict(zip(reversed(words), reversed(values), strict=True))
    return {value: label for label, value in first.items()}


def _digits(values: Sequence[float]) -> int:
    """Decimals that tell neighboring ticks apart."""
    if len(values) < 2:
        return 3
    return max(0, -math.floor(math.log10(values[1] - values[0]) + 1e-9))


def marked(frame: Frame, point: Point, words: str, is_beside: bool = False) -> list[str]:
    """A dot, and its label below; or beside and above, where a falling curve leaves room."""
    x, y = frame.place(point)
    dot = svg.dot(x, y, "second")
    if is_beside and x + 12 + svg.width_of(words) < svg.WIDTH:
        return [dot, svg.text_over(x + 12, y - 8, words)]
    anchor = "middle"
    if x > svg.WIDTH - LABEL_WIDTH:
        anchor = "end"
    elif x < LABEL_WIDTH:
        anchor = "start"
    return [dot, svg.text_over(x, y + 26, words, anchor=anchor)]


def heading(title: str) -> str:
    return svg.text(LEFT, 36, title, "title", svg.TITLE_SIZE)


def legend(entries: Sequence[tuple[str, str]]) -> list[str]:
    """Samples of lines and their names, at the upper right: (role, name) of each."""
    parts = []
    x = float(svg.WIDTH - RIGHT)
    for role, name in reversed(entries):
        x -= svg.width_of(name)
        parts.append(svg.text(x, 36, name))
        x -= 32
        parts.append(svg.path(f"M{x:.1f} 31h24", role, 3))
        x -= 20
    return parts
