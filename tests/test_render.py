"""Foreign text reaches the screen as it is, except for what could drive a terminal."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from simplellm.app.render import BIDI_CONTROLS, Screen, TrainingProgress, visible
from simplellm.errors import SettingError

CONTROL = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{BIDI_CONTROLS}]")
ATTACKS = [
    "\x1b[31mred", "\x1b]8;;http://x\x1b\\link\x1b]8;;\x07", "\x1b]52;c;aGk=\x07", "\x1b[6n", "\x9b31m", "a\rb", "a\x08b",
    "\x1b", "\u202eabc", "\x85", "\x7f", "\ud800", "\x1bP", "\x0e", "\u2066x\u2069",
]  # fmt: skip
MARKUP = [
    "[red]x[/]",
    "[/]",
    "[link=http://x]y[/link]",
    "[",
    "]",
    ":smile:",
    "[bold",
    "\\[red]",
    "{x}",
    "%s",
    "https://x.org 'a' 12",
]
text_without_controls = st.text(st.characters(blacklist_categories=("Cc", "Cs")) | st.sampled_from("\n\t ")).filter(
    lambda text: not CONTROL.search(text) and not set(text) & {"\u2028", "\u2029"}
)


def shown(*texts: str, color: bool = False) -> str:
    out = io.StringIO()
    screen = Screen(color=color, out=out, notices=io.StringIO())
    for text in texts:
        screen.write(text)
    return out.getvalue()


@settings(deadline=None)
@given(st.lists(st.one_of(st.text(), st.sampled_from(ATTACKS)), max_size=5))
def test_no_control_character_reaches_the_stream(texts):
    assert not CONTROL.search(shown(*texts))
    assert shown(*texts).encode("utf-8", "strict") is not None


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_door_stops_an_attack(attack):
    out, notices = io.StringIO(), io.StringIO()
    screen = Screen(color=False, out=out, notices=notices)
    screen.line(attack)
    screen.notice(attack)
    screen.table((attack, attack), [(attack, attack)])
    screen.error(SettingError(attack, fix=attack))
    assert not CONTROL.search(out.getvalue() + notices.getvalue())
    assert out.getvalue() and notices.getvalue()


@settings(deadline=None, max_examples=300)
@example("x" * 100 + " " * 30)
@example("a\tb")
@example("x" * 300 + "\n")
@example("trailing \n  leading")
@given(text_without_controls)
def test_other_text_comes_out_unchanged(text):
    assert shown(text) == text


@pytest.mark.parametrize("text", MARKUP)
def test_markup_comes_out_as_typed(text):
    assert shown(text, color=True) == text


def test_pieces_join_without_anything_between_them():
    assert shown("ab", " ", "c\n", " d", "", "한", "글 ") == "ab c\n d한글 "


def test_a_control_character_is_shown_visibly():
    assert visible("a\x1bb\x7f\x9b\u202e\n\t") == "a␛b␡<U+009B><U+202E>\n\t"


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
    step = {"kind": "step", "step": 3, "max_steps": 9, "loss": 2.5, "learning_rate": 0.1, "tokens_per_second": 100.0,
            "tokens_per_step": 50}  # fmt: skip
    evaluation = {"kind": "evaluation", "step": 3, "loss": 2.5, "perplexity": 12.2, "accuracy": 0.25, "bits_per_byte": 2.3,
                  "best": True}  # fmt: skip
    with TrainingProgress(Screen(out=out, notices=notices)) as progress:
        for record in (step, evaluation, {"kind": "early_stop", "step": 3, "patience": 2}, {"kind": "unknown"}):
            progress.write(record)
    assert out.getvalue() == "" and len(notices.getvalue().splitlines()) == 3
    assert "step 3/9" in notices.getvalue() and "2.300 bits/byte" in notices.getvalue()
    assert not CONTROL.search(notices.getvalue())
