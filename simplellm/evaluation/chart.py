"""SVG chart of the loss curves of a run, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from simplellm.evaluation.curves import LossCurves, Point

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 32, 44, 52  # margins
TICKS = 6  # per axis, approximately
MIN_RANGE = 1e-3  # nats on the loss axis
MAX_POINTS = 200  # of a line; a longer one is drawn faintly below its moving mean
LABEL_HEIGHT = 30  # space below the lowest loss for the label of the best one
LABEL_WIDTH = 150  # closer to an edge, the label is aligned with its end instead of its middle
MAX_NAME_CHARACTERS = 32  # fit beside the legend
EARLY_SHARE = 0.05  # of the steps, whose high losses do not count for the range of the loss axis
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #444 } .title { font-size: 15px; fill: #111 }
.over { paint-order: stroke; stroke: #fff; stroke-width: 4 }
.paper { fill: #fff } .grid { stroke: #ddd } .axis { stroke: #666 } .faint { opacity: .25 } \
.dot { stroke-width: 6 }
path { fill: none; stroke-width: 1.8; stroke-linecap: round; stroke-linejoin: round }
.train { stroke: #2b6cb0 } .held { stroke: #c05621 } .best { fill: #c05621 }
@media (prefers-color-scheme: dark) {
 text { fill: #bbb } .title { fill: #eee } .paper { fill: #16181d } .over { stroke: #16181d }
 .grid { stroke: #333 } .axis { stroke: #888 }
 .train { stroke: #63b3ed } .held { stroke: #f6ad55 } .best { fill: #f6ad55 }
}""".strip()


class Frame:
    """Maps steps and losses to page coordinates."""

    def __init__(self, curves: LossCurves) -> None:
        points = [*curves.train, *curves.validation] or [(0, 0.0), (1, 1.0)]
        self.last_step = max(max(step for step, _ in points), 1)
        late = [loss for step, loss in points if step >= EARLY_SHARE * self.last_step] or [
            points[-1][1]
        ]
        self.high = max(*late, MIN_RANGE)
        self.low = min(min(loss for _, loss in points), self.high - MIN_RANGE)

    def x(self, step: float) -> float:
        return LEFT + step / self.last_step * (WIDTH - LEFT - RIGHT)

    def y(self, loss: float) -> float:
        """A loss above the range is drawn at the upper edge."""
        return TOP + (self.high - min(loss, self.high)) / (self.high - self.low) * (
            HEIGHT - TOP - BOTTOM - LABEL_HEIGHT
        )

    @property
    def floor(self) -> float:
        """The loss at the lower edge, below the label of the best one."""
        return max(
            self.low
            - (self.high - self.low) * LABEL_HEIGHT / (HEIGHT - TOP - BOTTOM - LABEL_HEIGHT),
            0.0,
        )


def loss_svg(curves: LossCurves, name: str) -> str:
    """Training and validation loss over steps with the best marked, for light and dark pages."""
    frame = Frame(curves)
    name = name if len(name) <= MAX_NAME_CHARACTERS else name[: MAX_NAME_CHARACTERS - 1] + "…"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-label="loss over steps">',
        f'<style>{STYLE}</style><rect class="paper" width="{WIDTH}" height="{HEIGHT}" rx="6"/>',
        f'<text class="title" x="{LEFT}" y="24">{escape(xml_text(name))}: '
        "loss while training</text>",
        *axes(frame, "loss (nats per token)"),
        path(frame, curves.train, "train"),
        path(frame, curves.validation, "held"),
        *_best(frame, curves.best),
        *_legend(),
        "</svg>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def ticks(low: float, high: float, about: int = TICKS) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten from `low` to `high`."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    width = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    return [
        i * width for i in range(math.ceil(low / width - 1e-9), math.floor(high / width + 1e-9) + 1)
    ]


def axes(frame: Frame, label: str) -> list[str]:
    """Grid, axes and tick labels; `label` is written beside the loss axis."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    losses = ticks(frame.floor, frame.high)
    steps = [step for step in ticks(0, frame.last_step) if step == int(step)]
    digits = max(0, -math.floor(math.log10(losses[1] - losses[0]) + 1e-9)) if len(losses) > 1 else 3
    middle = (TOP + bottom) / 2
    return [
        *(_grid_line(frame.y(loss)) for loss in losses),
        *(
            f'<text x="{LEFT - 8}" y="{frame.y(loss) + 4:.1f}" text-anchor="end">'
            f"{loss:.{digits}f}</text>"
            for loss in losses
        ),
        *(
            f'<text x="{frame.x(step):.1f}" y="{bottom + 18}" text-anchor="middle">'
            f"{step:,.0f}</text>"
            for step in steps
        ),
        f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>',
        f'<text x="{(LEFT + right) / 2:.0f}" y="{HEIGHT - 12}" text-anchor="middle">step</text>',
        f'<text transform="translate(16 {middle:.0f}) rotate(-90)" text-anchor="middle">'
        f"{label}</text>",
    ]


def _grid_line(y: float) -> str:
    return f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'


def path(frame: Frame, points: Sequence[Point], style: str) -> str:
    """A curve of the class `style`; a long one is drawn faintly below its moving mean."""
    if not points:
        return ""
    if len(points) == 1:
        return f'<path class="{style} dot" d="M{_coordinates(frame, points)}h0"/>'
    if len(points) <= MAX_POINTS:
        return f'<path class="{style}" d="M{_coordinates(frame, points)}"/>'
    mean = _coordinates(frame, means(points, MAX_POINTS // 2))
    faint = f'<path class="{style} faint" d="M{_coordinates(frame, points)}"/>'
    return f'{faint}<path class="{style}" d="M{mean}"/>'


def _coordinates(frame: Frame, points: Sequence[Point]) -> str:
    return "L".join(f"{frame.x(step):.1f} {frame.y(loss):.1f}" for step, loss in points)


def means(points: Sequence[Point], most: int) -> list[Point]:
    """At most `most` points: means of groups of neighbors."""
    width = -(-len(points) // most)
    groups = (points[i : i + width] for i in range(0, len(points), width))
    return [
        (sum(step for step, _ in group) // len(group), sum(loss for _, loss in group) / len(group))
        for group in groups
    ]


def _best(frame: Frame, best: Point | None) -> list[str]:
    if best is None:
        return []
    step, loss = best
    x, y = frame.x(step), frame.y(loss)
    anchor = "end" if x > WIDTH - LABEL_WIDTH else "start" if x < LABEL_WIDTH else "middle"
    return [
        f'<circle class="best" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>',
        f'<text class="over" x="{x:.1f}" y="{y + 20:.1f}" text-anchor="{anchor}">'
        f"best {loss:.3f} at step {step:,}</text>",
    ]


def _legend() -> list[str]:
    places = (("train", "training", WIDTH - 210), ("held", "validation", WIDTH - 110))
    return [
        f'<path class="{style}" d="M{x} 20h20"/><text x="{x + 26}" y="24">{words}</text>'
        for style, words, x in places
    ]


def xml_text(text: str) -> str:
    """`text` with control characters replaced, which XML excludes even if escaped."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
