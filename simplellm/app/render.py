"""How things look. The only room that knows rich, and the one door every foreign text passes on its way to a screen."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from simplellm.errors import SimpleLLMError

SHOWN_AS_THEY_ARE = "\n\t"
BIDI_CONTROLS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
CONTROL_PICTURES = 0x2400  # U+2400 is the picture of NUL, and so on
PLAIN_REPORT_SECONDS = 5.0


def visible(text: str) -> str:
    """`text` with nothing in it that could drive a terminal: control characters are shown as pictures or as <U+009B>."""
    if text.isprintable():
        return text if not any(mark in text for mark in BIDI_CONTROLS) else _spelled(text)
    return _spelled(text)


def _spelled(text: str) -> str:
    return "".join(map(_spell, text))


def _spell(character: str) -> str:
    code = ord(character)
    if character in SHOWN_AS_THEY_ARE:
        return character
    if code < 0x20:
        return chr(CONTROL_PICTURES + code)
    if code == 0x7F:
        return "\u2421"
    if 0x80 <= code < 0xA0 or character in BIDI_CONTROLS or code in (0x2028, 0x2029) or 0xD800 <= code < 0xE000:
        return f"<U+{code:04X}>"
    return character


class Screen:
    """Where answers and notices go: answers to stdout, notices and progress to stderr."""

    def __init__(self, color: bool = True, out: IO[str] | None = None, notices: IO[str] | None = None) -> None:
        options: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False, "no_color": None if color else True}
        self.out = Console(file=out or sys.stdout, **options)
        self.notices = Console(file=notices or sys.stderr, **options)

    @property
    def is_terminal(self) -> bool:
        return self.out.is_terminal

    def write(self, text: str, style: str = "") -> None:
        """Foreign text as it comes, without a line end; the terminal wraps it, so wide characters keep their places."""
        self._print(self.out, visible(text), style, end="")

    def line(self, text: str = "", style: str = "") -> None:
        self._print(self.out, visible(text), style)

    def table(self, headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Columns on a terminal, tab-separated lines elsewhere."""
        if not self.is_terminal:
            for row in rows:
                self.line("\t".join(visible(cell) for cell in row))
            return
        table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(headers))
        for number, header in enumerate(headers):
            table.add_column(header, overflow="fold", no_wrap=number == 0 and self.out.width >= 60)
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
            console.print(Text(text), style=style or None, end=end, soft_wrap=True)
        else:  # as it is: rich would turn tabs into spaces
            console.file.write(text + end)
        console.file.flush()


def _one_line(text: str) -> str:
    return visible(" ".join(text.split()))


class TrainingProgress:
    """A sink that shows a run: one live line of progress on a terminal, plain lines elsewhere."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._progress: Progress | None = None
        self._reported_at = 0.0

    def write(self, record: dict[str, Any]) -> None:
        if record["kind"] == "step":
            self._step(record)
        elif record["kind"] == "evaluation":
            mark = ", the best so far" if record["best"] else ""
            self._say(
                f"step {record['step']}: held-out loss {record['loss']:.3f}, perplexity {record['perplexity']:.4g}, "
                f"accuracy {record['accuracy']:.1%}, {record['bits_per_byte']:.3f} bits/byte{mark}"
            )
        elif record["kind"] == "early_stop":
            self._say(f"step {record['step']}: no better for {record['patience']} evaluations, so training ends here")

    def _step(self, record: dict[str, Any]) -> None:
        step, last = record["step"], record["max_steps"]
        left = (last - step) * record["tokens_per_step"] / max(record["tokens_per_second"], 1e-9)
        figures = (
            f"loss {record['loss']:.3f}  rate {record['learning_rate']:.2g}  "
            f"{record['tokens_per_second']:,.0f} tokens/s  {_duration(left)} left"
        )
        if self._screen.notices.is_terminal:
            self._bar(last).update(TaskID(0), completed=step, figures=figures)
        elif time.monotonic() - self._reported_at >= PLAIN_REPORT_SECONDS:
            self._reported_at = time.monotonic()
            self._screen.notice(f"step {step}/{last}  {figures}")

    def _bar(self, last: int) -> Progress:
        if self._progress is None:
            columns = (TextColumn("step {task.completed}/{task.total}"), BarColumn(20), TextColumn("{task.fields[figures]}"))
            self._progress = Progress(*columns, console=self._screen.notices, transient=True)
            self._progress.add_task("", total=last, figures="")
            self._progress.start()
        return self._progress

    def _say(self, text: str) -> None:
        self._screen.notice(text)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
