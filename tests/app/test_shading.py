"""Shading by probability: readable on every terminal, with numbers where there are no colours."""

from __future__ import annotations

import contextlib
import io
import math
import re

import pyte
import pytest
from conftest import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.color import Color, ColorSystem
from rich.color_triplet import ColorTriplet

from simplellm.app.bar_chart import bar_lines, fitted, percent
from simplellm.app.results import Bar, Bars, Columns, Mark, Tokens
from simplellm.app.screen import Screen
from simplellm.app.shading import (
    LINE_END,
    SCALE,
    Shading,
    background,
    contrast,
    foreground,
    luminance,
    marks_of,
    short_number,
    spans,
    summary_of,
)
from simplellm.inference.reply import StreamedToken

LEVELS = [n / 200 for n in range(201)]
READABLE = 4.5  # WCAG AA
# vision without one kind of cone, in linear RGB (Viénot, Brettel and Mollon 1999)
COLOR_BLIND = {
    "protan": ((0.11238, 0.88762, 0.0), (0.11238, 0.88762, 0.0), (0.00401, -0.00401, 1.0)),
    "deutan": ((0.29275, 0.70725, 0.0), (0.29275, 0.70725, 0.0), (-0.02234, 0.02234, 1.0)),
}
ESCAPES = re.compile(r"\x1b\[[0-9;]*[mK]")
ASCII = "".join(map(chr, range(32, 127)))
pieces = st.lists(
    st.builds(
        StreamedToken,
        st.integers(0, 300),
        st.sampled_from(["", "a", " the", "\n", "x\ny\n", "한", "[", "\x1b["]),
        st.floats(1e-6, 1),
        st.integers(1, 9),
        st.floats(0, 8),
    ),
    max_size=12,
)


class FakeTerminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> FakeTerminal:
    for name in ("NO_COLOR", "COLORTERM", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "40")
    return FakeTerminal()


def linear(color: tuple[int, int, int]) -> list[float]:
    return [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (value / 255 for value in color)
    ]


def test_every_shade_is_readable_on_every_terminal() -> None:
    colors = {level: background(level) for level in (-1.0, 2.0, *LEVELS)}
    assert all(0 <= value <= 255 for color in colors.values() for value in color)
    contrasts = {level: contrast(foreground(color), color) for level, color in colors.items()}
    assert {level: value for level, value in contrasts.items() if value < READABLE} == {}


def of_256_colors(color: tuple[int, int, int]) -> tuple[int, ...]:
    """The color that a terminal of 256 colors shows instead."""
    full = Color.from_triplet(ColorTriplet(*color))
    return tuple(full.downgrade(ColorSystem.EIGHT_BIT).get_truecolor())


def test_every_shade_of_256_colors_is_readable() -> None:
    colors = {level: background(level) for level in LEVELS}
    contrasts = {
        level: contrast(foreground(color), of_256_colors(color)) for level, color in colors.items()
    }
    assert {level: value for level, value in contrasts.items() if value < READABLE - 0.75} == {}


def test_lightness_alone_shows_the_order() -> None:
    for matrix in ((1, 0, 0), (0, 1, 0), (0, 0, 1)), *COLOR_BLIND.values():
        seen = [
            [sum(a * c for a, c in zip(row, linear(color), strict=True)) for row in matrix]
            for color in SCALE
        ]
        light = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in seen]
        assert light == sorted(light) and light[-1] - light[0] > 0.5


def test_contrast_follows_wcag() -> None:
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((118, 118, 118), (255, 255, 255)) == pytest.approx(4.54, abs=0.01)
    assert luminance((255, 0, 0)) == pytest.approx(0.2126)


@given(pieces)
def test_the_probabilities_of_all_marks_multiply_to_that_of_the_reply(
    found: list[StreamedToken],
) -> None:
    whole = [*found, StreamedToken(None, ".")]
    marks = marks_of(whole)
    assert "".join(mark.text for mark in marks) == "".join(piece.text for piece in whole)
    assert all(mark.text and mark.level is not None for mark in marks)
    assert math.prod(mark.level for mark in marks) == pytest.approx(
        math.prod(piece.probability for piece in whole)
    )


def test_the_bytes_of_a_character_are_one_mark() -> None:
    shading = Shading()
    assert [shading.mark(StreamedToken(1, "", 0.5)), shading.mark(StreamedToken(2, "", 0.5))] == [
        None,
        None,
    ]
    assert shading.mark(StreamedToken(3, "한", 0.8)) == Mark("한", pytest.approx(0.2), ".20")
    assert shading.mark(StreamedToken(4, "a", 0.9)) == Mark("a", 0.9, ".90")


@pytest.mark.parametrize(
    "probability, text",
    [
        (0.82, ".82"),
        (1, "1"),
        (0.995, "1"),
        (0.99, ".99"),
        (0.004, "<.01"),
        (0, "<.01"),
        (0.005, ".01"),
    ],
)
def test_short_numbers_of_probabilities(probability: float, text: str) -> None:
    assert short_number(probability) == text


@given(st.text("ab\n "), st.booleans())
def test_spans_contain_the_text_and_shade_no_line_end(text: str, with_label: bool) -> None:
    found = list(spans(Mark(text, 0.5, "L"), with_label))
    assert "".join(span.text for span in found if not span.is_label).replace(LINE_END, "") == text
    assert all("\n" not in span.text for span in found if span.level is not None)
    assert [span.text for span in found if span.is_label] == ["[L]"] * with_label


def test_surprise_and_entropy_are_means_in_bits() -> None:
    said = [
        StreamedToken(1, "a", 0.5, 1, math.log(2)),
        StreamedToken(2, "", 0.125, 3, math.log(8)),
        StreamedToken(None, "b"),
    ]
    assert (
        summary_of(said) == "surprise 2.00 bits/token, perplexity 4, entropy 2.00, "
        "1 of 2 tokens were the most likely"
    )
    assert summary_of([StreamedToken(None, "b")]) == summary_of([]) == ""
    assert "149.00 bits" in summary_of([StreamedToken(1, "a", 0.0)])


# ---------------------------------------------------------------- bars

names = st.text("ab '한글é\U0001f642", max_size=30)
shares = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))
bars = st.builds(
    Bars,
    st.lists(
        st.builds(Bar, names, shares, st.one_of(st.none(), shares)), min_size=1, max_size=6
    ).map(tuple),
)


@settings(deadline=None)
@given(bars, st.integers(20, 200), st.booleans())
def test_bars_fit_the_terminal_and_align_in_columns(
    found: Bars, columns: int, ascii_only: bool
) -> None:
    lines = bar_lines(found, columns, cell_len, ascii_only)
    assert all(cell_len(line) <= columns for line in lines)
    numbers = [line for line in lines if line.rstrip().endswith(("%", "-"))]
    assert len({cell_len(line) for line in numbers}) == 1
    assert not ascii_only or all(
        set(line) - set("".join(row.name for row in found.rows)) <= set(ASCII) for line in lines
    )
    every = " ".join(lines)
    for row in found.rows:
        assert percent(row.before) in every and percent(row.after) in every


def test_bars_are_side_by_side_only_on_a_wide_terminal() -> None:
    found = Bars((Bar("'a'", 0.5, 1.0), Bar("'b'", 0.25, None)), ("token", "model", "after"))
    assert bar_lines(found, 48, ascii_only=True) == [
        "token  model                after",
        "'a'    ######        50.0%  ############ 100.0%",
        "'b'    ###           25.0%                    -",
    ]
    assert bar_lines(found, 20, ascii_only=True) == [
        "'a'", " ######        50.0%", " ############ 100.0%", "'b'", " ###           25.0%",
        "                   -",
    ]  # fmt: skip


def test_a_bar_is_as_long_as_its_share_of_the_highest() -> None:
    found = Bars((Bar("a", 0.4, 0.2), Bar("b", 0.0001, 0.0)))
    first, second = (line[1:-7] for line in bar_lines(found, 32, cell_len)[1:3])
    assert (first, second.rstrip()) == ("\u2588" * 24, "\u2588" * 12)
    tiny, none = (line[1:-7] for line in bar_lines(found, 32, cell_len)[4:6])
    assert tiny.rstrip() == "\u258f" and none.strip() == ""


@given(names, st.integers(0, 12), st.booleans())
def test_a_name_is_cut_or_filled_to_its_width(name: str, columns: int, ascii_only: bool) -> None:
    text = fitted(name, columns, cell_len, ascii_only)
    assert cell_len(text) == columns
    assert (
        text.startswith(name)
        if cell_len(name) <= columns
        else columns == 0 or text.rstrip(" ")[-1] in ".\u2026"
    )


# ---------------------------------------------------------------- on a screen


def test_without_colours_tokens_have_numbers(
    terminal: FakeTerminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [
        StreamedToken(1, "The", 0.82),
        StreamedToken(2, " judge", 1.0),
        StreamedToken(3, "\n", 0.25),
        StreamedToken(4, "x", 0.001),
    ]
    expected = f"The[.82] judge[1]{LINE_END}[.25]\nx[<.01]\n"
    monkeypatch.setenv("TERM", "dumb")
    dumb = FakeTerminal()
    for screen, out in ((Screen(out=(pipe := io.StringIO())), pipe), (Screen(out=dumb), dumb)):
        for piece in said:
            screen.token(piece)
        screen.line()
        assert out.getvalue() == expected
    monkeypatch.setenv("TERM", "xterm-256color")
    screen = Screen(color=False, out=terminal)
    screen.tokens(Tokens(marks_of(said)))
    assert ESCAPES.sub("", terminal.getvalue()) == expected and "38;5" not in terminal.getvalue()


def test_with_colours_tokens_have_no_numbers(terminal: FakeTerminal) -> None:
    screen = Screen(out=terminal)
    assert screen.has_shades
    screen.tokens(
        Tokens(
            (Mark("The", 0.9, ".90"), Mark(" judge", None, "no"), Mark("\n", 0.1, ".10")),
            summary="two bits",
        )
    )
    assert ESCAPES.sub("", terminal.getvalue()) == f"The judge{LINE_END}\n\ntwo bits\n"
    assert "48;5;" in terminal.getvalue()


def test_labels_are_always_shown_on_request(terminal: FakeTerminal) -> None:
    Screen(out=terminal).tokens(Tokens((Mark("The", 0.9, "17"),), always_labels=True))
    assert ESCAPES.sub("", terminal.getvalue()) == "The[17]\n"


@pytest.mark.parametrize("term, color, has_shades", [("xterm-256color", True, True), ("xterm",
True, False),
                                                     ("dumb", True, False), ("xterm-256color",
                                                     False, False)])  # fmt: skip
def test_shades_need_256_colours(
    terminal, monkeypatch, term: str, color: bool, has_shades: bool
) -> None:
    monkeypatch.setenv("TERM", term)
    assert Screen(color=color, out=terminal).has_shades == has_shades
    assert not Screen(out=io.StringIO()).has_shades


@settings(deadline=None, max_examples=examples(50))
@given(
    st.lists(st.sampled_from(["a", " the", "-->", "\n", " abcdefgh"]), min_size=1, max_size=60),
    st.integers(0, 50),
)
def test_a_terminal_shows_all_of_the_text(words: list[str], start: int) -> None:
    out = FakeTerminal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "40")
        patch.setenv("TERM", "xterm-256color")
        patch.delenv("NO_COLOR", raising=False)
        screen = Screen(out=out)
        screen.write("." * start)
        for word in words:
            screen.token(StreamedToken(1, word, 0.9))
        screen.line()
    page = pyte.Screen(40, 100)
    pyte.Stream(page).feed(out.getvalue().replace("\n", "\r\n"))
    shown = "".join(
        cell.data for y in range(100) for x in range(40) for cell in [page.buffer[y][x]]
    ).replace(" ", "")
    assert shown == ("." * start + "".join(words).replace("\n", LINE_END)).replace(" ", "")


def test_an_incomplete_character_does_not_affect_the_next_reply() -> None:
    screen = Screen(out=(out := io.StringIO()))
    screen.token(StreamedToken(1, "", 0.5))
    screen.line()
    screen.token(StreamedToken(2, "a", 0.5))
    assert out.getvalue() == "\na[.50]"


def test_untrusted_text_in_a_token_controls_nothing() -> None:
    screen = Screen(out=(out := io.StringIO()))
    screen.tokens(Tokens((Mark("a\x1b[31m", 0.5, "\x1b]0;x\x07"),), summary="\x9b"))
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", out.getvalue())


def test_bars_are_tab_separated_in_a_pipe_and_drawn_on_a_terminal(terminal: FakeTerminal) -> None:
    found = Bars((Bar("'한'", 0.5, None),), summary="top_k 3")
    Screen(out=(pipe := io.StringIO())).bars(found)
    assert pipe.getvalue() == "'한'\t50.0%\t-\ntop_k 3\n"
    Screen(out=terminal).bars(found)
    assert "\u2588" in terminal.getvalue() and all(
        cell_len(line) <= 40 for line in plain(terminal).splitlines()
    )


@pytest.mark.parametrize(
    "columns, is_side_by_side", [("100", True), ("72", True), ("60", False), ("20", False)]
)
def test_columns_are_side_by_side_on_a_wide_terminal(
    terminal, monkeypatch, columns: str, is_side_by_side: bool
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    Screen(out=terminal).columns(
        Columns(("cold", "warm", "hot"), ("a" * 30, "한글 " * 9, "x\ny"), "seed 3")
    )
    lines = plain(terminal).splitlines()
    assert (lines[0].split() == ["cold", "warm", "hot"]) == is_side_by_side
    assert (
        all(cell_len(line) <= int(columns) for line in lines) or not is_side_by_side
    )  # without colours the terminal wraps the text
    assert "".join(lines).count("한") == 9 and lines[-1] == "seed 3"


def test_columns_are_one_below_the_other_in_a_pipe() -> None:
    Screen(out=(pipe := io.StringIO())).columns(
        Columns(("cold", "hot"), ("a b", "[c]\x1b"), "seed 3")
    )
    assert pipe.getvalue() == "cold\na b\nhot\n[c]\u241b\nseed 3\n"


def plain(terminal: FakeTerminal) -> str:
    return ESCAPES.sub("", terminal.getvalue())


@settings(deadline=None, max_examples=examples(50))
@given(pieces, st.booleans())
def test_tokens_drawn_together_look_like_tokens_drawn_one_by_one(
    found: list[StreamedToken], color: bool
) -> None:
    def drawn(is_together: bool) -> str:
        out = FakeTerminal()
        screen = Screen(color=color, out=out)
        with screen.together() if is_together else contextlib.nullcontext():
            for piece in found:
                screen.token(piece)
        screen.line()
        return out.getvalue()

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "40")
        patch.setenv("TERM", "xterm-256color")
        patch.delenv("NO_COLOR", raising=False)
        assert page_of(drawn(True)) == page_of(drawn(False))


def page_of(output: str) -> list[tuple[str, str, str]]:
    """Each cell of a terminal after `output`: character and colours."""
    page = pyte.Screen(40, 60)
    pyte.Stream(page).feed(output.replace("\n", "\r\n"))
    return [
        (cell.data, cell.fg, cell.bg)
        for y in range(60)
        for x in range(40)
        for cell in [page.buffer[y][x]]
    ]
