"""Output to the terminal, to a pipe or to a file. All untrusted text is sanitized here.

Untrusted text did not come from this program: model output, texts, file names, typed values.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import IO, TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from simplellm.app import shading
from simplellm.app.bar_chart import bar_lines, percent
from simplellm.app.console import is_broken_pipe
from simplellm.app.matrix_chart import matrix_lines, n_fitting
from simplellm.app.results import Bars, Columns, Mark, Matrix, Tokens
from simplellm.app.sanitize import Sanitizer, one_line, visible
from simplellm.app.word_wrap import ERASE, Span, WordWrap
from simplellm.errors import SimpleLLMError

if TYPE_CHECKING:  # the sampler imports torch; an error message must not wait for that
    from simplellm.inference.reply import StreamedToken

FEWEST_COLUMNS = 24  # of each text beside others; narrower texts are shown one below the other
SHORT_CELLS = 14  # a table column whose cells have at most so many columns is not broken


class Screen:
    """Writes answers to stdout, and notices and progress to stderr."""

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
        # the 16 colours of old terminals are too few to show probabilities
        self.has_shades = (
            self.is_terminal
            and not self.out.no_color
            and self.out.color_system in ("256", "truecolor")
        )
        self._sanitizer = Sanitizer()
        self._shading = shading.Shading()
        self._wrap = WordWrap(cell_len)
        self._gathered: Text | None = None  # not drawn yet

    @property
    def is_terminal(self) -> bool:
        return self.out.is_terminal

    @property
    def is_interactive(self) -> bool:
        """Whether a person can answer: standard input and output are terminals."""
        return sys.stdin is not None and sys.stdin.isatty() and self.is_terminal

    # ------------------------------------------------------------ text

    def write(self, text: str, style: str = "") -> None:
        """Untrusted text without a line end. A terminal gets line ends between words."""
        self._draw(self._wrapped(self._sanitizer.push(text), style))

    def begin_reply(self, label: str, before: str = "") -> None:
        """Who replies; a label that takes more than half of the line has a line of its own.

        before: earlier lines of the same reply, which may have begun a block of code.
        """
        is_long = cell_len(label) * 2 > self._columns
        self.write(label.rstrip() if is_long else label, "bold")
        if is_long:
            self.line()
        self._wrap.begin_markdown(before)

    def echo(self, text: str) -> None:
        """Untrusted text that a reply continues, dim."""
        self.write(text, "dim")

    def _wrapped(self, text: str, style: str) -> list[Span]:
        """`text` with line ends between words on a terminal; text for programs is unchanged."""
        if not self.out.file.isatty():
            return [Span(text, style)]
        return self._wrap.push(text, style, self._columns)

    @property
    def _columns(self) -> int:
        """Width of the terminal. rich takes 80 for a dumb one."""
        is_dumb = self.out.is_dumb_terminal
        return shutil.get_terminal_size().columns if is_dumb else self.out.width

    def _draw(self, spans: Iterable[Span]) -> None:
        for span in spans:
            if span.text.startswith(ERASE):
                self._draw_gathered()
                self.out.file.write(span.text)  # rich would remove it
            elif self._gathered is None:
                self._print(self.out, span.text, span.style, end="")
            else:
                self._gathered.append(span.text, span.style or None)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """On a terminal, draw all text written within the block at its end.

        Drawing each token by itself is slow.
        """
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
        rest = self._sanitizer.push(text) + self._sanitizer.finish()
        self._draw([*self._wrapped(rest, style), *self._wrap.finish()])
        self._draw_gathered()
        self._print(self.out, "", "")
        self._wrap = WordWrap(cell_len)
        self._shading = shading.Shading()

    def exact(self, text: str) -> None:
        """Text for other programs: UTF-8 into a pipe or a file, sanitized on a terminal."""
        stream = self.out.file
        if stream.isatty():
            self.write(text)
        elif isinstance(stream, io.TextIOWrapper):
            stream.flush()
            stream.buffer.write(text.encode("utf-8", "replace"))
            stream.buffer.flush()
        else:
            stream.write(text)
            stream.flush()

    def notice(self, text: str, style: str = "dim") -> None:
        """A message on stderr. If its reader has gone, nothing is shown and the work goes on."""
        try:
            self._print_words(self.notices, visible(text), style)
        except OSError as error:
            if not is_broken_pipe(error):
                raise

    def error(self, error: SimpleLLMError) -> None:
        """What was expected and what was got, and the fix, in one or two lines."""
        self._print_words(self.notices, f"error: {one_line(str(error))}", "bold red")
        if error.fix:
            self._print_words(self.notices, f"fix: {one_line(error.fix)}", "")

    def _print_words(self, console: Console, text: str, style: str) -> None:
        """A whole message: a terminal breaks its lines between words."""
        if console.is_terminal:
            console.print(Text(text, style, overflow="fold"))
            console.file.flush()
        else:
            self._print(console, text, style)

    def _print(self, console: Console, text: str, style: str, end: str = "\n") -> None:
        if console.is_terminal:
            console.print(Text(text, style), end=end, soft_wrap=True)
        else:  # directly: rich would turn tabs into spaces
            console.file.write(text + end)
        console.file.flush()

    # ------------------------------------------------------------ shaded tokens

    def token(self, piece: StreamedToken) -> None:
        """A piece of a reply, shaded by its probability; without colours, the number follows it."""
        mark = self._shading.mark(piece)
        if mark:
            self._mark(mark)

    def tokens(self, tokens: Tokens) -> None:
        if tokens.text:
            self.line(tokens.text)
        with self.together():
            for mark in tokens.marks:
                self._mark(mark, tokens.always_labels)
        self.line()
        self._below(tokens.summary, tokens.legend)

    def matrix(self, matrix: Matrix) -> None:
        """Shaded numbers on a terminal, tab-separated lines of all tokens elsewhere."""
        if not self.is_terminal:
            rows = [
                (name, *(percent(share) for share in row[: number + 1]))
                for number, (name, row) in enumerate(zip(matrix.names, matrix.rows, strict=True))
            ]
            self.table(("token",), rows)
        else:
            columns = self.out.width - 1
            for line in matrix_lines(matrix, columns, cell_len, self.out.options.ascii_only):
                self._spans(line)
            if (n := n_fitting(matrix, columns, cell_len)) < len(matrix.names):
                self.line(f"the last {n} tokens fit; save FILE draws more of them", "dim")
        self._below(matrix.summary, matrix.legend)

    def _below(self, summary: str, legend: Sequence[Mark]) -> None:
        """The summary, and where there are colours what they mean."""
        if summary:
            self.line(summary, "dim")
        if legend and self.has_shades:
            self._spans(shading.Span(mark.text, mark.level) for mark in legend)

    def _spans(self, spans: Iterable[shading.Span]) -> None:
        with self.together():
            for span in spans:
                self._span(span)
        self.line()

    def _mark(self, mark: Mark, always_label: bool = False) -> None:
        line_end = "\\n" if self.out.options.ascii_only else shading.LINE_END
        for span in shading.spans(mark, always_label or not self.has_shades, line_end):
            self._span(span)

    def _span(self, span: shading.Span) -> None:
        if span.level is None or not self.has_shades:
            self.write(span.text, "dim" if span.is_label else "")
        else:
            self.write(span.text, _shade_style(round(span.level, 2)))

    # ------------------------------------------------------------ tables and bars

    def table(self, headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table on a terminal, tab-separated lines elsewhere."""
        if not self.is_terminal:
            for row in rows:
                self.line("\t".join(visible(cell) for cell in row))
            return
        table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(headers))
        cells = [[visible(cell) for cell in row] for row in rows]
        for number, header in enumerate(map(visible, headers)):
            longest = max(cell_len(text) for text in (header, *(row[number] for row in cells)))
            keeps_width = self.out.width >= 60 and (number == 0 or longest <= SHORT_CELLS)
            table.add_column(Text(header), overflow="fold", no_wrap=keeps_width)
        for row in cells:
            table.add_row(*map(Text, row))
        self.out.print(table)

    def bars(self, bars: Bars) -> None:
        """Bars on a terminal, tab-separated lines elsewhere."""
        if self.is_terminal:
            for line in bar_lines(bars, self.out.width, cell_len, self.out.options.ascii_only):
                self.line(line)
        else:
            rows = [(row.name, percent(row.before), percent(row.after)) for row in bars.rows]
            self.table(bars.headers, rows)
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


@lru_cache(maxsize=101)
def _shade_style(level: float) -> str:
    """The style of a shade as rich writes it. `level` has two decimals."""
    color = shading.background(level)
    return f"rgb{shading.foreground(color)} on rgb{color}".replace(", ", ",")
