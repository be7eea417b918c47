"""How things look. The only room that knows rich, and the one door every foreign text passes on its way to a screen."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import IO, TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console, ConsoleRenderable, Group, RenderHook
from rich.control import Control
from rich.file_proxy import FileProxy
from rich.panel import Panel
from rich.segment import ControlType, Segment, Segments
from rich.table import Table
from rich.text import Text

from simplellm.app import shades
from simplellm.app.keyboard import around_stops, held_back, typed_ahead_waits
from simplellm.app.panel import SAMPLE_LINES, View, duration, panel_lines, seconds_left
from simplellm.app.sanitize import Sanitizer, visible
from simplellm.app.shades import Bars, Columns, Mark, Tokens
from simplellm.errors import SimpleLLMError
from simplellm.evaluation.curves import overfitting_since

if TYPE_CHECKING:  # the sampler brings torch, which a wrong flag does not wait for
    from simplellm.inference.reply import StreamedToken

PLAIN_REPORT_SECONDS = 5.0
PLAIN_SAMPLE_CHARACTERS = 100
PANEL_SECONDS = 0.25  # between two drawings
PANEL_COLUMNS = 100  # at most: the eye does not follow longer lines
ECHO_COLUMNS = (
    2  # a terminal writes ^C behind the panel's last line; if that wrapped, the panel would be torn
)
WRAP_OFF, WRAP_ON = "\x1b[?7l", "\x1b[?7h"  # automatic wrapping (DECAWM)
FEWEST_COLUMNS = 24  # of a text beside others: narrower ones stand under each other
FRAME_FROM_COLUMNS, FRAME_COLUMNS, FRAME_ROWS = 56, 4, 2


class Screen:
    """Where answers and notices go: answers to stdout, notices and progress to stderr."""

    def __init__(
        self, color: bool = True, out: IO[str] | None = None, notices: IO[str] | None = None
    ) -> None:
        options: dict[str, Any] = {
            "highlight": False,
            "markup": False,
            "emoji": False,
            "no_color": None if color else True,
        }
        self.out = Console(file=out or sys.stdout, **options)
        self.notices = Console(file=notices or sys.stderr, **options)
        # the 16 colours of old terminals are too few to tell probabilities by
        self.has_shades = (
            self.is_terminal
            and not self.out.no_color
            and self.out.color_system in ("256", "truecolor")
        )
        self._foreign = Sanitizer()
        self._shading = shades.Shading()
        self._cells = 0  # written since the last line end
        self._gathered: Text | None = None  # not drawn yet

    @property
    def is_terminal(self) -> bool:
        return self.out.is_terminal

    def write(self, text: str, style: str = "") -> None:
        """Foreign text as it comes, without a line end; the terminal wraps it, so wide characters keep their places."""
        shown = self._foreign.push(text)
        if self._gathered is None:
            self._print(self.out, shown, style, end="")
        else:
            self._gathered.append(shown, style or None)
        if self.has_shades:
            self._cells = self._cells_after(shown)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Within the block, what is written to a terminal is gathered and drawn at its end: drawing each token is slow."""
        self._gathered = Text() if self.is_terminal else None
        try:
            yield
        finally:
            self._draw_gathered()
            self._gathered = None

    def _draw_gathered(self) -> None:
        if self._gathered:
            self.out.print(self._gathered, end="", soft_wrap=True)
            self.out.file.flush()
            self._gathered = Text()

    def line(self, text: str = "", style: str = "") -> None:
        self._draw_gathered()
        self._print(self.out, self._foreign.push(text) + self._foreign.finish(), style)
        self._cells, self._shading = 0, shades.Shading()

    def exact(self, text: str) -> None:
        """Text for programs: as it is into a pipe or a file, where all others are made safe too; like `write` on a terminal."""
        if self.out.file.isatty():
            self.write(text)
        else:
            self.out.file.write(text)
            self.out.file.flush()

    def token(self, piece: StreamedToken) -> None:
        """A piece of a reply in the colour of its probability, or with the number behind it where there is no colour."""
        mark = self._shading.mark(piece)
        if mark:
            self._mark(mark)

    def tokens(self, tokens: Tokens) -> None:
        with self.together():
            for mark in tokens.marks:
                self._mark(mark, tokens.always_labels)
        self.line()
        if tokens.summary:
            self.line(tokens.summary, "dim")

    def bars(self, bars: Bars) -> None:
        """Bars on a terminal, tab-separated lines elsewhere."""
        if self.is_terminal:
            for line in shades.bar_lines(
                bars, self.out.width, cell_len, self.out.options.ascii_only
            ):
                self.line(line)
        else:
            self.table(
                bars.headers,
                [
                    (row.name, shades.percent(row.before), shades.percent(row.after))
                    for row in bars.rows
                ],
            )
        if bars.summary:
            self.line(bars.summary, "dim")

    def columns(self, columns: Columns) -> None:
        if self.is_terminal and self.out.width // max(len(columns.texts), 1) >= FEWEST_COLUMNS:
            table = Table(
                box=None, pad_edge=False, expand=True, header_style="bold", padding=(0, 2, 0, 0)
            )
            for header in columns.headers:
                table.add_column(Text(visible(header)), ratio=1, overflow="fold")
            table.add_row(*(Text(visible(text)) for text in columns.texts))
            self.out.print(table)
        else:
            for header, text in zip(columns.headers, columns.texts, strict=True):
                self.line(header, "bold")
                self.line(text)
        if columns.summary:
            self.line(columns.summary, "dim")

    def _cells_after(self, text: str) -> int:
        """Cells of the last line once `text` is written; a wide character that does not fit begins the terminal's next line."""
        _, line_end, last_line = text.rpartition("\n")
        cells, width = 0 if line_end else self._cells, self.out.width
        for character in last_line:
            wide = cell_len(character)
            left = -cells % width
            cells += wide + (left if left < wide and left else 0)
        return cells

    def _mark(self, mark: Mark, always_label: bool = False) -> None:
        line_end = "\\n" if self.out.options.ascii_only else shades.LINE_END
        for span in shades.spans(mark, always_label or not self.has_shades, line_end):
            if span.level is None or not self.has_shades:
                self.write(span.text, "dim" if span.is_label else "")
            else:
                self._shade(span.text, _look(round(span.level, 2)))

    def _shade(self, text: str, look: str) -> None:
        before = self._cells
        self.write(text, look)
        has_wrapped = (before - 1) // self.out.width != (self._cells - 1) // self.out.width
        if (
            has_wrapped and self._cells % self.out.width
        ):  # a terminal that scrolls fills the new line with the colour
            self._draw_gathered()
            self.out.control(Control((ControlType.ERASE_IN_LINE, 0)))

    def table(self, headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Columns on a terminal, tab-separated lines elsewhere."""
        if not self.is_terminal:
            for row in rows:
                self.line("\t".join(visible(cell) for cell in row))
            return
        table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(headers))
        for number, header in enumerate(headers):
            table.add_column(
                Text(visible(header)), overflow="fold", no_wrap=number == 0 and self.out.width >= 60
            )
        for row in rows:
            table.add_row(*(Text(visible(cell)) for cell in row))
        self.out.print(table)

    def notice(self, text: str, style: str = "dim") -> None:
        self._print(self.notices, visible(text), style)

    def error(self, error: SimpleLLMError) -> None:
        """What, got and fix, in one or two lines."""
        self._print(self.notices, f"error: {_one_line(str(error))}", "bold red")
        if error.fix:
            self._print(self.notices, f"fix: {_one_line(error.fix)}", "")

    def _print(self, console: Console, text: str, style: str, end: str = "\n") -> None:
        if console.is_terminal:
            console.print(Text(text, style), end=end, soft_wrap=True)
        else:  # as it is: rich would turn tabs into spaces
            console.file.write(text + end)
        console.file.flush()


@lru_cache(maxsize=101)
def _look(level: float) -> str:
    """A shade as rich has it; hundredths are told apart."""
    color = shades.background(level)
    return f"rgb{shades.foreground(color)} on rgb{color}".replace(", ", ",")


def _one_line(text: str) -> str:
    return visible(" ".join(text.split()))


class LivePanel(RenderHook):
    """Lines at the bottom of a terminal, drawn anew at each call of `show`; what is printed meanwhile appears above them.

    Terminal and library may disagree on the width of a text, so automatic wrapping is off while the lines are drawn: each
    takes one row, and as many rows are erased as were drawn. rich.Live leaves a stale panel behind for each line that wraps.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lines: list[list[Segment]] = []
        self._shown: list[str] = []  # the text of each line that is on the screen
        self._columns = 0  # of the terminal when they were drawn
        self._opened = contextlib.ExitStack()

    def open(self) -> None:
        """From here on keys are not echoed, and what libraries print appears above the panel."""
        self._opened.enter_context(typed_ahead_waits(self._console.file))
        self._opened.enter_context(
            around_stops(self.erase, lambda: None)
        )  # the next `show` draws it below the shell's words
        self._console.push_render_hook(self)
        self._opened.callback(self._console.pop_render_hook)
        for stream, redirect in (
            (sys.stdout, contextlib.redirect_stdout),
            (sys.stderr, contextlib.redirect_stderr),
        ):
            if stream.isatty():
                proxy: Any = FileProxy(self._console, stream)
                self._opened.enter_context(redirect(proxy))

    def show(self, panel: ConsoleRenderable, border: int | None = None) -> None:
        """Draw in place of what was drawn before. `border` is the column of the frame's right side, if there is a frame."""
        lines = self._console.render_lines(panel, pad=False)
        if border is not None:
            lines[1:-1] = [_with_border(line, border) for line in lines[1:-1]]
        with held_back(
            "SIGINT", "SIGTSTP"
        ):  # they may end or stop the process, and it must be known what is drawn
            self._lines = lines[: self._console.height]
            self._console.print(Control(ControlType.HIDE_CURSOR))

    def erase(self) -> None:
        """Leave no trace until the next `show`."""
        self._lines = []
        self._console.print(Control(ControlType.SHOW_CURSOR))

    def close(self) -> None:
        with self._opened, held_back("SIGINT", "SIGTSTP"):
            self.erase()

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Called by rich at each print: the panel is erased, the text printed, the panel drawn below it, in one write."""
        erased = self._erased()
        self._columns = self._console.width
        self._shown = [
            "".join(segment.text for segment in line if not segment.control) for line in self._lines
        ]
        return [erased, *renderables, Segments(self._drawn())]

    def _erased(self) -> Control:
        """Erase what is drawn and go to its beginning. A terminal that was made narrower has wrapped the lines since."""
        columns = self._console.width
        is_wrapped = columns < self._columns
        rows = sum(_rows(line, columns) if is_wrapped else 1 for line in self._shown)
        this_row, row_above = (ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)
        codes = [ControlType.CARRIAGE_RETURN, this_row, *[row_above, this_row] * (rows - 1)]
        return Control(*codes if rows else ())

    def _drawn(self) -> Iterator[Segment]:
        yield self._mode(WRAP_OFF)
        for number, line in enumerate(self._lines):
            yield from [Segment.line(), *line] if number else line
        yield self._mode(WRAP_ON)

    def _mode(self, sequence: str) -> Segment:
        """A sequence that rich has no name for: marked as a control code, so that it takes no cell."""
        is_known = not self._console.legacy_windows
        return Segment(
            sequence if is_known else "", None, [(ControlType.BELL,)] if is_known else []
        )


def _rows(text: str, columns: int) -> int:
    """The rows that a line takes once a terminal has wrapped it; a wide character is never split."""
    rows, used = 1, 0
    for cells in map(cell_len, text):
        if used + cells > columns:
            rows, used = rows + 1, 0
        used += cells
    return rows


def _with_border(line: list[Segment], column: int) -> list[Segment]:
    """The last segment, a frame's right side, at a column that does not depend on the width of the text before it."""
    move = Control((ControlType.CURSOR_MOVE_TO_COLUMN, column), (ControlType.ERASE_IN_LINE, 0))
    return [*line[:-1], move.segment, line[-1]]


class TrainingProgress:
    """A sink that shows a run: one live panel on a terminal, plain lines elsewhere.

    The panel is drawn by `write` alone, with no thread beside it; notices on the same console appear above it.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._view = View()
        self._live: LivePanel | None = None
        self._reported_at = 0.0
        self._told_overfitting = False
        console = screen.notices
        self._is_live = console.is_terminal and not console.is_dumb_terminal

    def recall(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Take in what a resumed run has logged before, without showing or telling it again."""
        for record in records:
            self._view.add(record)
        self._told_overfitting = overfitting_since(self._view.curves) is not None

    def write(self, record: dict[str, Any]) -> None:
        self._view.add(record)
        if self._is_live and record["kind"] in ("step", "evaluation"):
            self._draw(at_once=record["kind"] == "evaluation")
        elif record["kind"] == "step":
            self._say_step(record)
        elif record["kind"] == "evaluation":
            self._say_evaluation(record)
        if record["kind"] == "evaluation":
            self._tell_overfitting()
        elif record["kind"] == "early_stop":
            self._say(
                f"step {record['step']}: no better for {record['patience']} evaluations, so training ends here"
            )

    def _draw(self, at_once: bool) -> None:
        if not at_once and time.monotonic() - self._reported_at < PANEL_SECONDS:
            return
        self._reported_at = time.monotonic()
        if self._live is None:
            self._live = LivePanel(self._screen.notices)
            self._live.open()
        self._live.show(*self._panel())

    def _panel(self) -> tuple[Panel | Group, int | None]:
        """The panel, and the column of its right side where it has a frame."""
        console, view = self._screen.notices, self._view
        columns, rows = min(console.width - ECHO_COLUMNS, PANEL_COLUMNS), console.height
        is_framed = columns >= FRAME_FROM_COLUMNS
        if is_framed:
            columns, rows = columns - FRAME_COLUMNS, rows - FRAME_ROWS
        ascii_only = console.options.ascii_only
        lines = panel_lines(view, self._wrapped(view.sample, columns), columns, rows, ascii_only)
        texts = [Text.assemble(*line, no_wrap=True, overflow="crop") for line in lines]
        if not is_framed:
            return Group(*texts), None
        width = columns + FRAME_COLUMNS
        return Panel(
            Group(*texts), title="training", title_align="left", width=width, border_style="dim"
        ), width - 1

    def _wrapped(self, sample: str, columns: int) -> list[str]:
        """A sample as lines that fit; cut with dots after SAMPLE_LINES."""
        if not sample.strip():
            return []
        lines = Text(_one_line(sample)).wrap(self._screen.notices, columns)
        if len(lines) > SAMPLE_LINES:
            last = lines[SAMPLE_LINES - 1]
            last.truncate(columns - 3)
            last.append("...")
        return [line.plain for line in lines[:SAMPLE_LINES]]

    def _say_step(self, record: dict[str, Any]) -> None:
        if time.monotonic() - self._reported_at < PLAIN_REPORT_SECONDS:
            return
        self._reported_at = time.monotonic()
        self._say(
            f"step {record['step']}/{record['max_steps']}  loss {record['loss']:.3f}  rate {record['learning_rate']:.2g}  "
            f"{record['tokens_per_second']:,.0f} tokens/s  {duration(seconds_left(record))} left"
        )

    def _say_evaluation(self, record: dict[str, Any]) -> None:
        mark = ", the best so far" if record["best"] else ""
        self._say(
            f"step {record['step']}: held-out loss {record['loss']:.3f}, perplexity {record['perplexity']:.4g}, "
            f"accuracy {record['accuracy']:.1%}, {record['bits_per_byte']:.3f} bits/byte{mark}"
        )
        sample = _one_line(record.get("sample") or "")
        if sample:
            self._say(
                f"  sample: {sample[:PLAIN_SAMPLE_CHARACTERS]}{'...' * (len(sample) > PLAIN_SAMPLE_CHARACTERS)}"
            )

    def _tell_overfitting(self) -> None:
        since = overfitting_since(self._view.curves)
        if since is not None and not self._told_overfitting:
            self._told_overfitting = True
            self._say(
                f"the model starts to learn the text by heart: held-out loss rises since step {since}; the best is kept"
            )

    def _say(self, text: str) -> None:
        self._screen.notice(text)

    def close(self) -> None:
        if self._live is not None:
            self._live.close()
            self._live = None

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
