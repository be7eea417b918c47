"""Charts of a run as SVG: the loss curves, and the curve of a learning-rate range test."""

from __future__ import annotations

from collections.abc import Sequence

from simplellm.evaluation.curves import LossCurves, Point
from simplellm.evaluation.picture import svg
from simplellm.evaluation.picture.axes import HEIGHT, Frame, axes, frame_of, heading, legend, marked

MAX_POINTS = 200  # of a line; a longer one is drawn faintly below its moving mean
MAX_NAME_CHARACTERS = 32  # fit beside the legend
FAINT = 0.25  # opacity
LOSS_AXIS = "loss (nats per token, lower is better)"


def loss_svg(curves: LossCurves, name: str) -> str:
    """Training and validation loss over steps with the best marked, for light and dark pages."""
    frame = frame_of([*curves.train, *curves.validation] or [(0, 0.0), (1, 1.0)])
    name = name if len(name) <= MAX_NAME_CHARACTERS else name[: MAX_NAME_CHARACTERS - 1] + "…"
    best = curves.best
    parts = [
        heading(f"{printable(name)}: loss while training"),
        *axes(frame, "step", LOSS_AXIS),
        *curve(frame, curves.train, "first"),
        *curve(frame, curves.validation, "second"),
        *(marked(frame, best, f"best {best[1]:.3f} at step {best[0]:,}") if best else ()),
        *legend([("first", "training"), ("second", "validation")]),
    ]
    return svg.document(svg.WIDTH, HEIGHT, "loss over steps", parts)


def range_test_svg(
    rates: Sequence[float], losses: Sequence[float], suggestion: float, muon_ratio: float | None
) -> str:
    """Smoothed loss over AdamW's rate, on a logarithmic axis, with the suggested rate marked.

    muon_ratio: Muon's rate divided by AdamW's; None without Muon.
    """
    points = list(zip(rates, losses, strict=True)) or [(1.0, 1.0), (10.0, 1.0)]
    frame = frame_of(points, log_x=True)
    nearest = min(points, key=lambda point: abs(point[0] - suggestion))
    words = f"suggested: {suggestion:g}"
    axis = "learning rate of AdamW (--learning-rate)"
    if muon_ratio is not None:
        words += f", Muon {suggestion * muon_ratio:.2g}"
        axis += f"; that of Muon is {muon_ratio:.3g} times as high"
    parts = [
        heading("loss while the learning rate rises"),
        *axes(frame, axis, LOSS_AXIS),
        *curve(frame, points, "first"),
        *marked(frame, nearest, words, is_beside=True),
    ]
    return svg.document(svg.WIDTH, HEIGHT, "loss over learning rate", parts)


def curve(
    frame: Frame,
    points: Sequence[Point] | Sequence[tuple[float, float]],
    role: str,
    opacity: float = 1,
    dash: str = "",
) -> list[str]:
    """A line through the points; a long one is drawn faintly below its moving mean."""
    if not points:
        return []
    if len(points) == 1:
        return [svg.dot(*frame.place(points[0]), role, 4)]
    if len(points) <= MAX_POINTS:
        return [svg.path(frame.data(points), role, opacity=opacity, dash=dash)]
    mean = frame.data(means(points, MAX_POINTS // 2))
    faint = svg.path(frame.data(points), role, opacity=FAINT * opacity, dash=dash)
    return [faint, svg.path(mean, role, opacity=opacity, dash=dash)]


def means(
    points: Sequence[Point] | Sequence[tuple[float, float]], most: int
) -> list[tuple[float, float]]:
    """At most `most` points: means of groups of neighbors."""
    width = -(-len(points) // most)
    groups = (points[i : i + width] for i in range(0, len(points), width))
    return [
        (sum(step for step, _ in group) // len(group), sum(loss for _, loss in group) / len(group))
        for group in groups
    ]


def printable(text: str) -> str:
    """`text` with characters that control or hide text replaced."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
