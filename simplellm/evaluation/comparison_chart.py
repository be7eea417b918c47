"""SVG chart of the loss curves of several runs: one colour for each run."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from simplellm.evaluation.chart import (
    HEIGHT,
    LEFT,
    STYLE,
    WIDTH,
    Frame,
    axes,
    path,
    xml_text,
)
from simplellm.evaluation.comparison import ComparedRun, has_one_tokenizer
from simplellm.evaluation.curves import LossCurves

ROW_HEIGHT = 18  # of a line of the legend
MAX_NAME_CHARACTERS = 70
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
    frame = Frame(_all_points(curves))
    height = HEIGHT + ROW_HEIGHT * (len(runs) + 1)
    unit = "nats per token" if is_nats else "bits per byte"
    shown = escape(xml_text(title))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'aria-label="loss over steps of several runs">',
        f"<style>{STYLE}{_styles(len(runs))}</style>"
        f'<rect class="paper" width="{WIDTH}" height="{height}" rx="6"/>',
        f'<text class="title" x="{LEFT}" y="24">{shown}</text>',
        *axes(frame, f"loss ({unit})"),
        *(path(frame, curve.train, f"run{i} faint") for i, curve in enumerate(curves)),
        *(path(frame, curve.validation, f"run{i}") for i, curve in enumerate(curves)),
        *_legend(runs, curves),
        "</svg>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _all_points(curves: Sequence[LossCurves]) -> LossCurves:
    return LossCurves(
        [point for curve in curves for point in curve.train],
        [point for curve in curves for point in curve.validation],
    )


def _styles(n_runs: int) -> str:
    """A class for each run; a dash pattern where the colours are used up."""
    rules = []
    for i in range(n_runs):
        dash = DASHES[i // len(COLORS) % len(DASHES)]
        dashed = f"; stroke-dasharray: {dash}" if dash else ""
        rules.append(f" .run{i} {{ stroke: {COLORS[i % len(COLORS)]}{dashed} }}")
    return "".join(rules)


def _legend(runs: Sequence[ComparedRun], curves: Sequence[LossCurves]) -> list[str]:
    """A line for each run below the chart: its name and its best validation loss."""
    lines = [
        f'<text x="{LEFT}" y="{HEIGHT + 4}">'
        "thick: validation loss; faint: training loss, with dropout and augmentation</text>"
    ]
    for i, (run, curve) in enumerate(zip(runs, curves, strict=True)):
        y = HEIGHT + ROW_HEIGHT * (i + 1)
        name = escape(xml_text(run.name[:MAX_NAME_CHARACTERS]))
        best = f": best {curve.best[1]:.3f} at step {curve.best[0]:,}" if curve.best else ""
        lines += [
            f'<path class="run{i}" d="M{LEFT} {y}h28"/>',
            f'<text x="{LEFT + 36}" y="{y + 4}">{name}{best}</text>',
        ]
    return lines
