"""Training progress: one panel that fits the terminal, and plain lines elsewhere."""

from __future__ import annotations

import io
import re
from typing import Any

import pyte
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from terminal import drawable
from wcwidth import wcwidth

from simplellm.app import training_progress
from simplellm.app.loss_chart import BEST_MARK, VALIDATION_MARK, braille
from simplellm.app.screen import Screen
from simplellm.app.styled_lines import flow
from simplellm.app.training_panel import View, figures, panel_lines, progress_bar
from simplellm.app.training_progress import PLAIN_SAMPLE_CHARACTERS, TrainingProgress

SAMPLE = "The judge \x1b[31msat\x07 [bold]down[/] and\n\n왔다 " * 20
DISPUTED = [  # texts whose width in cells differs between rich and terminals
    "\U0001f3fd", "a\U0001f3fb\U0001f3ff", "\U0001f44d\U0001f3fd", "\U0001f1f0\U0001f1f7",
    "\u2764\ufe0f",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467", "1\ufe0f\u20e3", "\u0915\u094d\u0937\u093f",
    "\u0e01\u0e33\u0e49",
    "\u1112\u1161\u11ab", "\U00018d1f", "\u0b53", "\u00b1\u2026", "\U0001fae9", "e\u0301", "\uff21",
]  # fmt: skip
CELLS = {  # width of characters on different terminals
    "as pyte": wcwidth,
    "wider": lambda character: 1 if character.isascii() else 2,
    "narrower": lambda character: 1,
}
COLORS = re.compile(r"\x1b\[[0-9;]*\b(3[0-7]|9[0-7])[;m]")


def step(number: int, loss: float = 3.0, last: int = 60) -> dict:
    return {
        "kind": "step", "step": number, "max_steps": last, "epoch": number / 7, "loss": loss,
        "gradient_norm": 1.25,
        "learning_rate": 0.003, "tokens_per_second": 12_345.6, "tokens_per_step": 2048,
        "memory_bytes": 300 << 20,
    }  # fmt: skip


def evaluation(number: int, loss: float = 3.5, best: bool = True, sample: str = SAMPLE) -> dict:
    return {
        "kind": "evaluation", "step": number, "loss": loss, "val_loss": loss, "perplexity": 33.1,
        "accuracy": 0.25,
        "bits_per_byte": 2.3, "best": best, "sample": sample, "seconds": 1.0,
    }  # fmt: skip


def a_run() -> list[dict]:
    """Losses fall; from step 30 on the validation loss rises."""
    records = []
    for number in range(1, 61):
        records.append(step(number, 7 - number / 12))
        if number % 10 == 0:
            records.append(evaluation(number, 4.0 + abs(number - 30) / 20, best=number <= 30))
    return records


def filled(records: list[dict]) -> View:
    view = View()
    for record in records:
        view.add(record)
    return view


class Terminal(io.StringIO):
    """A stream that claims to be a terminal, and the screen that it would show."""

    def __init__(self, columns: int, rows: int) -> None:
        super().__init__()
        self.screen = pyte.HistoryScreen(columns, rows, history=1000)
        self.stream = pyte.Stream(self.screen)

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.stream.feed(drawable(text.replace("\n", "\r\n")))
        return super().write(text)

    def rewrap(self, columns: int) -> None:
        """Become narrower as most terminals do: long lines wrap into the next row."""
        wrapped = []
        for line in self.lines[: self.screen.cursor.y + 1]:
            row, used = "", 0
            for character in line.rstrip():
                if used + wcwidth(character[0]) > columns:
                    wrapped.append(row)
                    row, used = "", 0
                row, used = row + character, used + wcwidth(character[0])
            wrapped.append(row)
        self.screen.resize(columns=columns)
        self.stream.feed("\x1b[?7h\x1b[H\x1b[2J" + "\r\n".join(wrapped))

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines).strip("\n")

    @property
    def lines(self) -> list[str]:
        """Rows of the screen. The `display` of pyte fails on half-overwritten wide characters."""
        return [
            "".join(self.screen.buffer[y][x].data for x in range(self.screen.columns))
            for y in range(self.screen.lines)
        ]


@pytest.fixture
def open_terminal(monkeypatch: pytest.MonkeyPatch):
    def open_terminal(
        columns: int = 100, rows: int = 30, color: bool = True, term: str = "xterm-256color"
    ):
        monkeypatch.setenv("TERM", term)
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("LINES", str(rows))
        terminal = Terminal(columns, rows)
        return terminal, TrainingProgress(Screen(color=color, out=io.StringIO(), notices=terminal))

    return open_terminal


@pytest.mark.parametrize("columns", [1, 5, 12, 20, 40, 59, 60, 100])
@pytest.mark.parametrize("rows", [3, 10, 24])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_no_line_is_wider_than_the_terminal(columns, rows, ascii_only):
    for upto in (0, 1, 2, 12, 72):
        lines = panel_lines(filled(a_run()[:upto]), ["x" * columns], columns, rows, ascii_only)
        longest_figure = 26 if columns < 20 else 0  # a figure is never broken; the screen cuts it
        assert all(
            sum(cell_len(text) for text, _ in line) <= max(columns, longest_figure)
            for line in lines
        )
        assert not ascii_only or all(text.isascii() for line in lines for text, _ in line)
        assert columns < 20 or rows < 24 or len(lines) <= rows


def test_parts_flow_over_lines_and_are_never_broken():
    parts = [[("a ", "dim"), ("1", "")], [("b ", "dim"), ("22", "")], [("c ", ""), ("3", "")]]
    assert ["".join(text for text, _ in line) for line in flow(parts, 9)] == ["a 1  b 22", "c 3"]
    assert len(flow(parts, 1)) == 3


def test_progress_is_as_wide_as_the_panel_from_start_to_end():
    for number in (0, 1, 30, 60):
        assert sum(len(text) for text, _ in progress_bar(step(number), 40)) == 40
    assert progress_bar(step(60), 40)[0][0] == "\u2501" * 35


def test_a_braille_line_has_a_dot_in_every_column_and_no_gap():
    rows = braille([0, 3, 11, 4, 4, 0], columns=3, rows=3)
    assert len(rows) == 3 and all(len(row) == 3 for row in rows)
    assert all(any(row[column] != "\u2800" for row in rows) for column in range(3))
    assert rows[0][0] == chr(0x2800 + 0x01 + 0x08 + 0x10 + 0x20 + 0x80), "from 0 down to 3"


def test_the_panel_shows_every_figure_the_curve_and_the_sample(open_terminal):
    terminal, progress = open_terminal()
    for record in a_run()[:33]:  # up to the evaluation at 30
        progress.write(record)
    shown = terminal.text
    for figure in ("step 30/60", "epoch 4.3", "left 0:04", "train loss 4.500", "validation 4.000",
    "best 4.000",
                   "at step 30", "perplexity 33.1", "accuracy 25.0%", "bits/byte 2.300",
                   "rate 0.003", "gradient 1.25",
                   "tokens/s 12,346", "memory 300 MB", "50%", "The judge"):  # fmt: skip
        assert figure in shown, figure
    curve = [line for line in shown.splitlines() if re.search("[\u2801-\u28ff]", line)]
    assert len(curve) >= 3 and VALIDATION_MARK in "".join(curve) and BEST_MARK in "".join(curve)
    assert shown.count("step 30/60") == 1, "one panel, not one for each record"


def test_a_sample_has_at_most_four_lines_and_no_control_characters(open_terminal):
    terminal, progress = open_terminal(columns=40)
    for record in (step(1), step(2), evaluation(2)):
        progress.write(record)
    lines = terminal.text.splitlines()
    assert sum(
        "judge" in line or "왔다" in line or "down" in line for line in lines
    ) == 4 and lines[-1].endswith("...")
    assert "[bold]" in terminal.text and "\u241b[31m" in terminal.text
    assert "\x07" not in terminal.getvalue() and "\x1b[31msat" not in terminal.getvalue()


@pytest.mark.parametrize("columns", [20, 60])
def test_notices_appear_above_the_panel_and_do_not_tear_it(open_terminal, columns):
    terminal, progress = open_terminal(columns=columns, rows=30)
    for record in a_run()[:20]:
        progress.write(record)
    progress._screen.notice("a word")
    progress.write(evaluation(20, 3.0))
    text = terminal.text
    assert (
        text.count("a word") == 1
        and text.index("a word") < text.index("%")
        and text.count("gradient") == 1
    )


@pytest.mark.parametrize("columns", [20, 60, 100])
def test_the_echo_of_ctrl_c_does_not_tear_the_panel(open_terminal, columns, monkeypatch):
    monkeypatch.setattr(training_progress, "PANEL_SECONDS", 0.0)
    terminal, progress = open_terminal(columns=columns)
    with progress:
        for record in a_run()[:33]:
            progress.write(record)
        terminal.write("^C")
        progress.write(step(34))
        assert terminal.text.count("gradient") == 1
        terminal.write("^C")
    assert not terminal.text.strip()


def n_panels(terminal: Terminal) -> int:
    """Panels on the screen and above it."""
    above = (
        "".join(line[x].data for x in range(terminal.screen.columns))
        for line in terminal.screen.history.top
    )
    return "\n".join([*above, *terminal.lines]).count("gradient")


def draw_with(open_terminal, columns: int, sample: str) -> Any:
    """Draw a panel with this sample many times; check each drawing. The terminal at the end."""
    terminal, progress = open_terminal(columns=columns)
    with progress:
        progress.write(step(1))
        for number in range(2, 5):
            progress.write(step(number))
            progress.write(evaluation(number, 3.0, sample=sample))
            assert n_panels(terminal) == 1
            framed = [line for line in terminal.lines if line.startswith("\u2502")]
            assert all(
                line[: min(columns - 2, 100)].endswith("\u2502")
                for line in framed
                if line.isascii()
            )
            if number == 3:
                progress._screen.notice("a long notice wraps as ever: " + "word " * columns)
                assert n_panels(terminal) == 1
        assert "word " * (columns // 6) in " ".join(terminal.text.split()) + " "
    assert n_panels(terminal) == 0 and not re.search("[\u2500-\u257f\u2800-\u28ff]", terminal.text)
    assert pyte.modes.DECAWM in terminal.screen.mode and not terminal.screen.cursor.hidden
    return terminal


@pytest.mark.parametrize("columns", [20, 60])
@pytest.mark.parametrize("cells", CELLS)
def test_text_of_ambiguous_width_leaves_no_stale_panels(open_terminal, monkeypatch, columns, cells):
    monkeypatch.setattr(training_progress, "PANEL_SECONDS", 0.0)
    monkeypatch.setattr(pyte.screens, "wcwidth", CELLS[cells])
    for text in (" ".join(DISPUTED * 9), DISPUTED[0] * 300):
        terminal = draw_with(open_terminal, columns, text)
        assert n_panels(terminal) == 0


ANY_TEXT = st.lists(
    st.sampled_from(DISPUTED) | st.characters(exclude_categories=["Cs"]), min_size=1
)


@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=ANY_TEXT, cells=st.sampled_from(list(CELLS)))
def test_no_text_leaves_stale_panels(open_terminal, text, cells):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_progress, "PANEL_SECONDS", 0.0)
        patch.setattr(pyte.screens, "wcwidth", CELLS[cells])
        terminal = draw_with(open_terminal, 60, "".join(text * 20)[:400])
    assert n_panels(terminal) == 0


def test_the_frame_keeps_its_place_beside_text_of_ambiguous_width(open_terminal):
    terminal, progress = open_terminal(columns=60)
    progress.write(step(1))
    progress.write(evaluation(1, sample="\U0001f3fd ab " * 40))
    rows = [
        terminal.screen.buffer[y]
        for y in range(30)
        if terminal.screen.buffer[y][0].data == "\u2502"
    ]
    assert len(rows) >= 8 and all(row[57].data == "\u2502" and row[58].data == " " for row in rows)


@pytest.mark.parametrize("rewraps", [False, True])
def test_a_terminal_made_narrower_or_wider_shows_one_panel(open_terminal, monkeypatch, rewraps):
    monkeypatch.setattr(training_progress, "PANEL_SECONDS", 0.0)
    terminal, progress = open_terminal(columns=110, rows=40)
    with progress:
        for number, columns in enumerate((110, 109, 80, 60, 57, 58, 40, 24, 110, 56, 100), 1):
            if rewraps and columns < terminal.screen.columns:
                terminal.rewrap(columns)
            else:
                terminal.screen.resize(columns=columns)
            monkeypatch.setenv("COLUMNS", str(columns))
            progress._screen.notices._width = columns
            progress.write(step(number))
            progress.write(evaluation(number))
            assert n_panels(terminal) == 1, columns
            assert len(re.findall("training|\u256f|%", terminal.text)) <= 5
    assert not re.search("[\u2500-\u257f\u2800-\u28ff]|gradient", terminal.text)


def test_after_training_the_panel_is_gone_and_notices_stay(open_terminal):
    terminal, progress = open_terminal()
    with progress:
        for record in a_run():
            progress.write(record)
        progress.write({"kind": "early_stop", "step": 60, "patience": 3})
    words = " ".join(terminal.text.split())
    assert "gradient" not in words and words.count("overfitting") == 1
    assert (
        "validation loss has been rising since step 30; the best checkpoint is kept" in words
        and "no improvement in 3 evaluations" in words
    )


@pytest.mark.parametrize("columns", [100, 30])
def test_at_the_end_of_a_training_the_final_figures_stay_above_what_follows(open_terminal, columns):
    terminal, progress = open_terminal(columns=columns, rows=50)
    for record in a_run():
        progress.write(record)
    progress.close(keep=True)
    progress._screen.notice("the report")
    words = " ".join(terminal.text.split())
    assert words.count("100%") == words.count("gradient") == 1 and "step 60/60" in words
    assert words.endswith("the report") and "\x1b[?25h" in terminal.getvalue()
    assert terminal.getvalue().endswith("the report\x1b[0m\n")


def test_the_best_step_is_never_later_than_the_step_that_is_shown():
    view = filled([step(10), evaluation(12)])
    shown = dict(("".join(text for text, _ in line)).split(" ", 1) for line in figures(view))
    assert shown["step"] == "12/60" and shown["at"] == "step 12"
    assert filled([evaluation(12)]).step == {}


def test_a_narrow_terminal_without_colour_is_readable(open_terminal):
    terminal, progress = open_terminal(columns=20, rows=24, color=False)
    for record in a_run()[:33]:
        progress.write(record)
    assert not COLORS.search(terminal.getvalue())
    for words in (
        "step 30/60",
        "train loss 4.500",
        "bits/byte 2.300",
        "tokens/s 12,346",
        "The judge",
    ):
        assert words in terminal.text


def test_a_dumb_terminal_gets_plain_lines(open_terminal):
    terminal, progress = open_terminal(term="dumb")
    with progress:
        for record in a_run():
            progress.write(record)
    assert "\x1b" not in terminal.getvalue() and terminal.getvalue().count("validation loss") >= 6


def test_plain_lines_end_with_a_short_sample_and_report_overfitting_once():
    notices = io.StringIO()
    with TrainingProgress(Screen(out=io.StringIO(), notices=notices)) as progress:
        for record in a_run():
            progress.write(record)
    lines = notices.getvalue().splitlines()
    samples = [line for line in lines if line.startswith("  sample: The judge")]
    assert len(samples) == 6 and all(len(line) <= PLAIN_SAMPLE_CHARACTERS + 20 for line in samples)
    assert sum("overfitting" in line for line in lines) == 1 and "\x1b" not in notices.getvalue()


def test_a_resumed_run_is_drawn_completely_and_reported_once(open_terminal):
    terminal, progress = open_terminal()
    progress.recall(a_run()[:60])
    for record in a_run()[60:]:
        progress.write(record)
    assert (
        "best 4.000" in terminal.text
        and "at step 30" in terminal.text
        and "overfitting" not in terminal.text
    )
