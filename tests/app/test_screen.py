"""Foreign text reaches the screen as it is, except for what could drive a terminal."""

from __future__ import annotations

import io
import re

import pytest
from conftest import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st

from simplellm.app.results import Mark, Tokens
from simplellm.app.sanitize import visible
from simplellm.app.screen import Screen
from simplellm.app.training_progress import TrainingProgress
from simplellm.errors import SettingError
from simplellm.inference.reply import StreamedToken

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
OUR_OWN = re.compile(
    r"\x1b\[[0-9;]*m|\x1b\[0K|\r?\x1b\[(?:2K|1A)|\x1b\[\d+G|\x1b\[\?7[lh]|\x1b\[\?25[lh]"
)  # colours and styles; cursor movements of the panel
ATTACKS = [
    "\x1b[31mred", "\x1b]8;;http://x\x1b\\link\x1b]8;;\x07", "\x1b]52;c;aGk=\x07", "\x1b[6n",
    "\x9b31m", "a\rb", "a\x08b",
    "\x1b", "\u202eabc", "\x85", "\x7f", "\ud800", "\x1bP", "\x0e", "\u2066x\u2069",
    "\x1b[0;1m\x1b[0K", "\x1b[?25l",
]  # fmt: skip
MARKUP = [
    "[red]x[/]", "[/]", "[link=http://x]y[/link]", "[", "]", ":smile:", "[bold", "\\[red]", "{x}",
    "%s", "[@click=f]", "[1]",
    "https://x.org 'a' 12",
]  # fmt: skip
STEP = {
    "kind": "step", "step": 3, "max_steps": 9, "epoch": 0.5, "loss": 2.5, "gradient_norm": 1.0,
    "learning_rate": 0.1,
    "tokens_per_second": 100.0, "tokens_per_step": 50, "memory_bytes": 1 << 20,
}  # fmt: skip
EVALUATION = {
    "kind": "evaluation", "step": 3, "loss": 2.5, "val_loss": 2.5, "perplexity": 12.2,
    "accuracy": 0.25, "bits_per_byte": 2.3,
    "best": True,
}  # fmt: skip
text_without_controls = st.text(
    st.characters(blacklist_categories=("Cc", "Cs", "Cf")) | st.sampled_from("\n\t \u200d")
).filter(lambda text: text == visible(text))


class FakeTerminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> FakeTerminal:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "1000")
    return FakeTerminal()


def through_every_door(screen: Screen, text: str) -> int:
    """How often a text should be shown."""
    screen.write(text)
    screen.token(StreamedToken(1, text, 0.5))
    screen.line(text)
    screen.tokens(
        Tokens(
            (Mark(text, 0.5), Mark("a", 0.5, text), Mark(text, None)),
            always_labels=True,
            summary=text,
        )
    )
    screen.notice(text)
    screen.table((text, text), [(text, text), ("a", "b")])
    screen.error(SettingError(text, fix=text))
    with TrainingProgress(screen) as progress:
        progress.write(STEP)
        progress.write(EVALUATION | {"sample": text})
    return (
        3 + 4 + 1 + (4 if screen.is_terminal else 2) + 2 + 1
    )  # a pipe gets a table without its headers


def shown(*texts: str, color: bool = False) -> str:
    out = io.StringIO()
    screen = Screen(color=color, out=out, notices=io.StringIO())
    for text in texts:
        screen.write(text)
    screen.line()
    return out.getvalue().removesuffix("\n")


@settings(deadline=None)
@given(st.lists(st.one_of(st.text(), st.sampled_from(ATTACKS)), max_size=5))
def test_no_control_character_reaches_the_stream(texts):
    assert not CONTROL.search(shown(*texts))
    assert shown(*texts).encode("utf-8", "strict") is not None


@pytest.mark.parametrize("attack", ATTACKS, ids=ascii)
def test_every_output_method_stops_an_attack(attack):
    out, notices = io.StringIO(), io.StringIO()
    through_every_door(Screen(color=False, out=out, notices=notices), attack)
    assert not CONTROL.search(out.getvalue() + notices.getvalue())
    assert out.getvalue() and notices.getvalue()


@pytest.mark.parametrize("attack", ATTACKS, ids=ascii)
def test_every_output_method_writes_only_our_own_sequences(attack, terminal):
    through_every_door(Screen(out=terminal, notices=terminal), attack)
    assert not CONTROL.search(OUR_OWN.sub("", terminal.getvalue()))
    for like_ours in OUR_OWN.findall(attack):
        assert visible(like_ours) in terminal.getvalue()


@settings(deadline=None, max_examples=examples(300))
@example("x" * 100 + " " * 30)
@example("a\tb")
@example("x" * 300 + "\n")
@example("trailing \n  leading")
@given(text_without_controls)
def test_other_text_comes_out_unchanged(text):
    assert shown(text) == text


@pytest.mark.parametrize("text", MARKUP)
def test_every_output_method_shows_markup_as_typed(text, terminal):
    assert shown(text, color=True) == text
    out = io.StringIO()
    times = through_every_door(Screen(out=out, notices=out), text)
    assert out.getvalue().count(text) >= times
    times = through_every_door(Screen(out=terminal, notices=terminal), text)
    assert OUR_OWN.sub("", terminal.getvalue()).count(text) >= times
    assert "\x1b]8" not in terminal.getvalue()  # no hyperlinks from rich


def test_pieces_join_without_anything_between_them():
    assert shown("ab", " ", "c\n", " d", "", "한", "글 ") == "ab c\n d한글 "


def test_a_control_character_is_replaced_however_the_text_is_split():
    assert shown("a\r", "\nb\x1b", "[31m\r", "c\r") == "a\nb\u241b[31m\u240dc\u240d"


def test_exact_text_is_unchanged_in_a_pipe_and_sanitized_on_a_terminal(terminal):
    out = io.StringIO()
    for stream in (out, terminal):
        screen = Screen(color=False, out=stream, notices=io.StringIO())
        for piece in ("a\x1b[3", "1m\t[red]\r", "\n"):
            screen.exact(piece)
    assert out.getvalue() == "a\x1b[31m\t[red]\r\n"
    assert OUR_OWN.sub("", terminal.getvalue()).startswith("a\u241b[31m")
    assert not CONTROL.search(terminal.getvalue())


@settings(deadline=None)
@given(st.text(min_size=1), st.text())
def test_an_error_is_one_or_two_lines(what, fix):
    notices = io.StringIO()
    Screen(color=False, out=io.StringIO(), notices=notices).error(SettingError(what, fix=fix))
    lines = notices.getvalue().splitlines()
    assert len(lines) == (2 if fix else 1) and lines[0].startswith("error: ")


def test_a_table_is_tab_separated_lines_in_a_pipe():
    out = io.StringIO()
    Screen(out=out).table(("a", "b"), [("1", "x y"), ("2", "z")])
    assert out.getvalue() == "1\tx y\n2\tz\n"


def test_progress_is_plain_lines_in_a_pipe():
    out, notices = io.StringIO(), io.StringIO()
    with TrainingProgress(Screen(out=out, notices=notices)) as progress:
        for record in (
            STEP,
            EVALUATION,
            {"kind": "early_stop", "step": 3, "patience": 2},
            {"kind": "unknown"},
        ):
            progress.write(record)
    assert out.getvalue() == "" and len(notices.getvalue().splitlines()) == 4
    assert "lower is better, except for accuracy" in notices.getvalue().splitlines()[2]
    assert "step 3/9" in notices.getvalue() and "2.300 bits/byte" in notices.getvalue()
    assert not CONTROL.search(notices.getvalue())
