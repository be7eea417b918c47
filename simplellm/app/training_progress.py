"""Shows the progress of a training: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Group
from rich.panel import Panel
from rich.text import Text

from simplellm.app.live_panel import LivePanel
from simplellm.app.sanitize import one_line
from simplellm.app.screen import Screen
from simplellm.app.training_panel import SAMPLE_LINES, View, duration, panel_lines, seconds_left
from simplellm.checkpoint.run_log import LogRecord
from simplellm.evaluation.curves import overfitting_since

PLAIN_REPORT_SECONDS = 5.0
PLAIN_SAMPLE_CHARACTERS = 100
READING = "loss is in nats per token; lower is better, except for accuracy"
PANEL_SECONDS = 0.25  # between two drawings
PANEL_COLUMNS = 100  # at most: longer lines are hard to read
ECHO_COLUMNS = 2  # left free: the terminal writes ^C there, and a wrapped line would tear the panel
FRAME_FROM_COLUMNS = 56  # width from which the panel has a frame
FRAME_COLUMNS = 4
FRAME_ROWS = 2


class TrainingProgress:
    """A sink for log records that shows them.

    Only `write` draws the panel; there is no thread. Notices on the same console appear above it.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._view = View()
        self._live: LivePanel | None = None
        self._reported_at = 0.0
        self._has_warned_of_overfitting = False
        self._has_explained = False
        console = screen.notices
        self._is_live = console.is_terminal and not console.is_dumb_terminal

    def recall(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Take in the earlier records of a resumed run without showing them again."""
        for record in records:
            self._view.add(record)
        self._has_warned_of_overfitting = overfitting_since(self._view.curves) is not None

    def write(self, record: LogRecord) -> None:
        self._view.add(record)
        kind = record["kind"]
        if self._is_live and kind in ("step", "evaluation"):
            self._draw(at_once=kind == "evaluation")
        elif kind == "step":
            self._print_step(record)
        elif kind == "evaluation":
            self._print_evaluation(record)
        if kind == "evaluation":
            self._warn_of_overfitting()
        elif kind == "early_stop":
            self._screen.notice(
                f"step {record['step']}: no improvement in {record['patience']} evaluations; "
                "training ends early"
            )

    def close(self, keep: bool = False) -> None:
        """End the panel; with `keep` the newest figures stay on the screen."""
        if self._live is not None:
            if keep:
                self._live.show(*self._panel())
            self._live.close(keep)
            self._live = None

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _warn_of_overfitting(self) -> None:
        since = overfitting_since(self._view.curves)
        if since is not None and not self._has_warned_of_overfitting:
            self._has_warned_of_overfitting = True
            self._screen.notice(
                f"the loss on held-out replies has been rising since step {since}: usual while "
                "replies are learned by heart; the best checkpoint is chosen by accuracy"
                if self._view.curves.accuracies
                else f"overfitting: the validation loss has been rising since step {since}; "
                "the best checkpoint is kept"
            )

    # ------------------------------------------------------------ the panel

    def _draw(self, at_once: bool) -> None:
        if not at_once and time.monotonic() - self._reported_at < PANEL_SECONDS:
            return
        self._reported_at = time.monotonic()
        if self._live is None:
            self._live = LivePanel(self._screen.notices)
            self._live.open()
        self._live.show(*self._panel())

    def _panel(self) -> tuple[Panel | Group, int | None]:
        """The panel, and the column of the right side of its frame, if it has one."""
        console = self._screen.notices
        columns = min(console.width - ECHO_COLUMNS, PANEL_COLUMNS)
        rows = console.height
        is_framed = columns >= FRAME_FROM_COLUMNS
        if is_framed:
            columns -= FRAME_COLUMNS
            rows -= FRAME_ROWS
        sample = self._wrapped(self._view.sample, columns)
        lines = panel_lines(self._view, sample, columns, rows, console.options.ascii_only)
        content = Group(*(Text.assemble(*line, no_wrap=True, overflow="crop") for line in lines))
        if not is_framed:
            return content, None
        width = columns + FRAME_COLUMNS
        panel = Panel(
            content, title="training", title_align="left", width=width, border_style="dim"
        )
        return panel, width - 1

    def _wrapped(self, sample: str, columns: int) -> list[str]:
        """A sample as lines that fit, cut with dots after SAMPLE_LINES."""
        if not sample.strip():
            return []
        lines = Text(one_line(sample)).wrap(self._screen.notices, columns)
        if len(lines) > SAMPLE_LINES:
            last = lines[SAMPLE_LINES - 1]
            last.truncate(columns - 3)
            last.append("...")
        return [line.plain for line in lines[:SAMPLE_LINES]]

    # ------------------------------------------------------------ plain lines

    def _print_step(self, record: LogRecord) -> None:
        if time.monotonic() - self._reported_at < PLAIN_REPORT_SECONDS:
            return
        self._reported_at = time.monotonic()
        self._screen.notice(
            f"step {record['step']}/{record['max_steps']}  loss {record['loss']:.3f}  "
            f"rate {record['learning_rate']:.2g}  {record['tokens_per_second']:,.0f} tokens/s  "
            f"{duration(seconds_left(record))} left"
        )

    def _print_evaluation(self, record: LogRecord) -> None:
        best = ", the best so far" if record["best"] else ""
        self._screen.notice(
            f"step {record['step']}: validation loss {record['loss']:.3f}, "
            f"perplexity {record['perplexity']:.4g}, accuracy {record['accuracy']:.1%}, "
            f"{record['bits_per_byte']:.3f} bits/byte{_beside(record)}{best}"
        )
        if not self._has_explained:
            self._has_explained = True
            self._screen.notice(f"  {READING}")
        sample = one_line(record.get("sample") or "")
        if sample:
            dots = "..." if len(sample) > PLAIN_SAMPLE_CHARACTERS else ""
            self._screen.notice(f"  sample: {sample[:PLAIN_SAMPLE_CHARACTERS]}{dots}")


def _beside(record: Mapping[str, Any]) -> str:
    """The figures of training replies, and of the text in mixed data."""
    replies, text = record.get("train_accuracy"), record.get("text_bits_per_byte")
    return (f", training replies {replies:.1%}" if replies is not None else "") + (
        f", text {text:.3f} bits/byte" if text is not None else ""
    )
