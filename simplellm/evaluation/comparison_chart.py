"""SVG chart of the loss curves of several runs: one colour for each run."""

from __future__ import annotations

from collections.abc import Sequence

from simplellm.evaluation.chart import FAINT, curve, printable
from simplellm.evaluation.comparison import ComparedRun, has_one_tokenizer
from simplellm.evaluation.curves import LossCurves
from simplellm.evaluation.picture import svg
from simplellm.evaluation.picture.axes import HEIGHT, LEFT, axes, frame_of, heading

ROW_HEIGHT = 24  # of a line of the legend
MAX_NAME_CHARACTERS = 70
MAX_TITLE_CHARACTERS = 60
COLORS = (  # Okabe and Ito 2008: distinguishable with colour-blind eyes, on light and dark pages
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6bbe", "#888888",
)  # fmt: skip
DASHES = ("", "7 5", "2 4", "9 4 2 4")  # one for each turn through the colours


def comparison_svg(runs: Sequence[ComparedRun], title: str) -> str:
    """Loss over steps of each run: thick for validation, faint for training.

    In nats per token; runs with different tokenizers are drawn in bits per byte, where only the
    validation loss is known.
    """
    is_nats = has_one_tokenizer(runs)
    curves = [run.curves if is_nats else run.bits for run in runs]
    points = [point for one in curves for point in (*one.train, *one.validation)]
    frame = frame_of(points or [(0, 0.0), (1, 1.0)])
    unit = "nats per token" if is_nats else "bits per byte"
    parts = [
        heading(printable(title)[:MAX_TITLE_CHARACTERS]),
        *axes(frame, "step", f"loss ({unit}, lower is better)"),
    ]
    for i, one in enumerate(curves):
        parts += curve(frame, one.train, *_look(i, FAINT))
    for i, one in enumerate(curves):
        parts += curve(frame, one.validation, *_look(i))
    parts += _legend(runs, curves)
    height = HEIGHT + ROW_HEIGHT * (len(runs) + 2)
    return svg.document(svg.WIDTH, height, "loss over steps of several runs", parts)


def _look(number: int, opacity: float = 1) -> tuple[str, float, str]:
    """Colour, opacity and dashes of the curves of a run; dashes where the colours are used up."""
    dash = DASHES[number // len(COLORS) % len(DASHES)]
    return COLORS[number % len(COLORS)], opacity, dash


def _legend(runs: Sequence[ComparedRun], curves: Sequence[LossCurves]) -> list[str]:
    """A line for each run below the chart: its name and its best validation loss."""
    words = "thick: validation loss; faint: training loss, with dropout and augmentation"
    lines = [svg.text(LEFT, HEIGHT + 16, words)]
    for i, (run, one) in enumerate(zip(runs, curves, strict=True)):
        y = HEIGHT + 16 + ROW_HEIGHT * (i + 1)
        name = printable(run.name[:MAX_NAME_CHARACTERS])
        best = f": best {one.best[1]:.3f} at step {one.best[0]:,}" if one.best else ""
        color, _, dash = _look(i)
        lines.append(svg.path(f"M{LEFT} {y - 5}h28", color, 3, dash=dash))
        lines.append(svg.text(LEFT + 40, y, name + best))
    return lines
