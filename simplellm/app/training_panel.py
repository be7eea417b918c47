"""The training panel as lines of styled text. Pure functions of figures and a width."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from simplellm.app.loss_chart import FEWEST_COLUMNS, FEWEST_ROWS, chart_lines
from simplellm.app.styled_lines import Line, flow
from simplellm.evaluation.curves import LossCurves

CHART_ROWS = 7  # at most
SAMPLE_LINES = 4


@dataclass
class View:
    """What the panel shows: the newest step and evaluation, with its sample, and the losses."""

    curves: LossCurves = field(default_factory=LossCurves)
    step: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)

    def add(self, record: Mapping[str, Any]) -> None:
        """Take in a record of the run log."""
        if record["kind"] == "restart":
            self.curves = LossCurves()
            self.step = {}
            self.evaluation = {}
        self.curves.add(record)
        if record["kind"] == "step":
            self.step = record
        elif record["kind"] == "evaluation":
            self.evaluation = record
            if self.step:  # not every step is logged: the evaluation may be of a later one
                self.step = {**self.step, "step": max(self.step["step"], record["step"])}

    @property
    def sample(self) -> str:
        return str(self.evaluation.get("sample") or "")


def panel_lines(
    view: View, sample: Sequence[str], columns: int, rows: int, ascii_only: bool = False
) -> list[Line]:
    """The panel for a terminal of this size. `sample`: lines of the sample, already made safe."""
    top = [progress_bar(view.step, columns, ascii_only), *flow(figures(view), columns)]
    bottom: list[Line] = [[(line, "italic")] for line in sample[:SAMPLE_LINES]]
    free = rows - len(top) - len(bottom) - 2  # the legend of the chart, and the cursor's line
    has_chart = free >= FEWEST_ROWS and columns >= FEWEST_COLUMNS and len(view.curves.train) > 1
    if not has_chart:
        return [*top, *bottom]
    chart = chart_lines(view.curves, columns, min(free, CHART_ROWS), ascii_only)
    return [*top, *chart, *bottom]


def progress_bar(step: Mapping[str, Any], columns: int, ascii_only: bool = False) -> Line:
    """The share of steps done, as wide as the panel."""
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
    known = [*_progress(view.step), *_quality(view), *_speed(view.step)]
    return [[(f"{name} ", "dim"), (value, "bold")] for name, value in known]


def _progress(step: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    if step:
        yield "step", f"{step['step']:,}/{step['max_steps']:,}"
        yield "epoch", f"{step['epoch']:.1f}"
        yield "left", duration(seconds_left(step))
        yield "train loss", f"{step['loss']:.3f}"


def _quality(view: View) -> Iterable[tuple[str, str]]:
    evaluation = view.evaluation
    best = view.curves.best
    if evaluation and best:
        yield "validation", f"{evaluation['loss']:.3f}"
        yield "best", f"{best[1]:.3f}"
        yield "at step", f"{best[0]:,}"
        yield "perplexity", f"{evaluation['perplexity']:.4g}"
        yield "accuracy", f"{evaluation['accuracy']:.1%}"
        yield "bits/byte", f"{evaluation['bits_per_byte']:.3f}"
        if "train_accuracy" in evaluation:
            yield "training replies", f"{evaluation['train_accuracy']:.1%}"
        if "text_bits_per_byte" in evaluation:
            yield "text bits/byte", f"{evaluation['text_bits_per_byte']:.3f}"


def _speed(step: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    if step:
        yield "rate", f"{step['learning_rate']:.2g}"
        yield "gradient", f"{step['gradient_norm']:.2f}"
        yield "tokens/s", f"{step['tokens_per_second']:,.0f}"
        yield "memory", f"{step['memory_bytes'] / 2**20:,.0f} MB"


def seconds_left(step: Mapping[str, Any]) -> float:
    n_tokens = (step["max_steps"] - step["step"]) * step["tokens_per_step"]
    return float(n_tokens / max(step["tokens_per_second"], 1e-9))


def duration(seconds: float) -> str:
    """`1:05`, or `2:00:00` from an hour on."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
