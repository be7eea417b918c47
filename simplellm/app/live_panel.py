"""A panel at the bottom of a terminal that is redrawn in place, below what is printed meanwhile."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleRenderable, RenderHook
from rich.control import Control
from rich.file_proxy import FileProxy
from rich.segment import ControlType, Segment, Segments

from simplellm.app.signals import delayed_signals, suspend_hooks
from simplellm.app.typeahead import keep_typeahead

WRAP_OFF = "\x1b[?7l"  # automatic wrapping of lines (DECAWM)
WRAP_ON = "\x1b[?7h"
# While lines are drawn: the signals that may end or stop the process. `_shown` has to match the
# screen by then, and rich writes its text again if an exception interrupts the write.
DELAYED = ("SIGINT", "SIGTSTP", "SIGTERM", "SIGHUP")


class LivePanel(RenderHook):
    """Lines at the bottom of a terminal. Each `show` redraws them; other output appears above.

    Terminal and library may disagree on the width of a text. Automatic wrapping is therefore off
    while the lines are drawn: each line takes one row, and as many rows are erased as were drawn.
    rich.Live would leave a stale panel behind for each line that wraps.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lines: list[list[Segment]] = []
        self._shown: list[str] = []  # text of each line on the screen
        self._columns = 0  # width of the terminal when they were drawn
        self._opened = contextlib.ExitStack()

    def open(self) -> None:
        """Stop the echo of keys, and show what libraries print above the panel."""
        self._opened.enter_context(keep_typeahead(self._console.file))
        # after Ctrl-Z and fg, the next `show` draws the panel below the output of the shell
        self._opened.enter_context(suspend_hooks(self.erase, lambda: None))
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
        """Draw the panel in place of the one before.

        `border`: column of the right side of the frame, if the panel has a frame.
        """
        lines = self._console.render_lines(panel, pad=False)
        if border is not None:
            lines[1:-1] = [_with_border(line, border) for line in lines[1:-1]]
        with delayed_signals(*DELAYED):
            self._lines = lines[: self._console.height]
            self._console.print(Control(ControlType.HIDE_CURSOR))

    def erase(self) -> None:
        """Remove the panel until the next `show`."""
        self._lines = []
        self._console.print(Control(ControlType.SHOW_CURSOR))

    def close(self, keep: bool = False) -> None:
        """End the panel. With `keep` its lines stay on the screen, and output goes on below."""
        with self._opened, delayed_signals(*DELAYED):
            if keep and self._lines:
                lines = Segments([*self._drawn(), Segment.line()])
                self._lines = []
                self._console.print(lines, end="")
            self.erase()

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Called by rich at each print: erase the panel, print, draw the panel, in one write."""
        erased = self._erased()
        self._columns = self._console.width
        self._shown = [
            "".join(segment.text for segment in line if not segment.control) for line in self._lines
        ]
        return [erased, *renderables, Segments(self._drawn())]

    def _erased(self) -> Control:
        """Erase the panel and go to its first row.

        A terminal that has become narrower has wrapped the lines meanwhile.
        """
        columns = self._console.width
        is_wrapped = columns < self._columns
        rows = sum(_rows(line, columns) if is_wrapped else 1 for line in self._shown)
        this_row = (ControlType.ERASE_IN_LINE, 2)
        row_above = (ControlType.CURSOR_UP, 1)
        codes = [ControlType.CARRIAGE_RETURN, this_row, *[row_above, this_row] * (rows - 1)]
        return Control(*codes if rows else ())

    def _drawn(self) -> Iterator[Segment]:
        yield self._mode(WRAP_OFF)
        for number, line in enumerate(self._lines):
            yield from [Segment.line(), *line] if number else line
        yield self._mode(WRAP_ON)

    def _mode(self, sequence: str) -> Segment:
        """A control sequence that rich has no name for, marked as control: it has no width."""
        if self._console.legacy_windows:
            return Segment("", None, [])
        return Segment(sequence, None, [(ControlType.BELL,)])


def _rows(text: str, columns: int) -> int:
    """The rows of a line that the terminal has wrapped; a wide character is never split."""
    rows = 1
    used = 0
    for cells in map(cell_len, text):
        if used + cells > columns:
            rows += 1
            used = 0
        used += cells
    return rows


def _with_border(line: list[Segment], column: int) -> list[Segment]:
    """Move the last segment, the right side of a frame, to `column`.

    Its place then does not depend on the width of the text before it.
    """
    move = Control((ControlType.CURSOR_MOVE_TO_COLUMN, column), (ControlType.ERASE_IN_LINE, 0))
    return [*line[:-1], move.segment, line[-1]]
