"""Streamed text is wrapped at words, as it arrives."""

from __future__ import annotations

import io
import re

import pyte
import pytest
from conftest import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from simplellm.app.screen import Screen
from simplellm.app.word_wrap import ERASE, HELD_COLUMNS, WordWrap, is_emoji

WIDTH = 20
KOREAN = "한국어 문장입니다 그리고 더 긴 문장"
emoji_words = st.lists(
    st.sampled_from(
        [
            *"ab한글e",
            "e\u0301",
            "👍",
            "👍🏽",
            "👩\u200d👩\u200d👧",
            "🇰🇷",
            "❤\ufe0f",
            "1\ufe0f\u20e3",
        ]
    ),
    min_size=1,
    max_size=12,
).map("".join)
words = st.text(st.sampled_from("ab한글é.-👍日本"), min_size=1, max_size=9)


def written(text: str, size: int = 1, width: int = WIDTH, before: str | None = None) -> list[str]:
    """What is written for each piece of `size` characters of the text, and at the end.

    before: earlier lines of a reply in Markdown; None for other text.
    """
    wrap = WordWrap(cell_len)
    if before is not None:
        wrap.begin_markdown(before)
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    spans = [wrap.push(piece, "", width) for piece in pieces]
    return ["".join(span.text for span in part) for part in (*spans, wrap.finish())]


def lines(output: str, width: int = WIDTH) -> list[str]:
    """The lines of a terminal after `output`."""
    page = pyte.Screen(width, 60)
    pyte.Stream(page).feed(output.replace("\n", "\r\n"))
    return [line.rstrip() for line in page.display]


@given(st.lists(words), st.integers(1, 7))
def test_no_word_is_split_and_none_is_lost(found: list[str], size: int) -> None:
    shown = lines("".join(written(" ".join(found), size)))
    kept = [word for line in shown for word in line.split()]
    unspaced = str.maketrans({"日": " 日 ", "本": " 本 "})  # may be separated
    assert " ".join(kept).translate(unspaced).split() == " ".join(found).translate(unspaced).split()


@settings(max_examples=examples(30))
@given(st.lists(emoji_words, max_size=20), st.integers(1, 7), st.integers(20, 80))
def test_no_emoji_is_erased_because_its_width_differs_between_terminals(
    found: list[str], size: int, width: int
) -> None:
    output = "".join(written(" ".join(found), size, width))
    while match := re.search(f"({re.escape(ERASE)})+", output):
        before, n_columns = output[: match.start()], len(match[0]) // len(ERASE)
        kept = before
        while cell_len(before[len(kept) :]) < n_columns:
            kept = kept[:-1]
        erased = before[len(kept) :]
        assert cell_len(erased) == n_columns and not any(map(is_emoji, erased)), erased
        output = kept + output[match.end() :]
    assert "".join(output.split()) == "".join(found)


@given(st.lists(words), st.integers(1, 7))
def test_the_lines_do_not_depend_on_how_the_text_is_cut(found: list[str], size: int) -> None:
    text = "\n".join(" ".join(found[start : start + 5]) for start in range(0, len(found), 5))
    assert lines("".join(written(text, size))) == lines("".join(written(text, 10_000)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one two three four five six", ["one two three four", "five six"]),
        ("exactly twenty cells then more", ["exactly twenty cells", "then more"]),
        (KOREAN, ["한국어 문장입니다", "그리고 더 긴 문장"]),
        ("日本語の文章はスペースがない", ["日本語の文章はスペー", "スがない"]),
        ("a " + "x" * 45 + " b", ["a", "x" * 20, "x" * 20, "xxxxx b"]),
        ("  def f():\n\treturn", ["  def f():", "        return"]),
        ("one\n\ntwo", ["one", "", "two"]),
        ("nineteen characters  two spaces", ["nineteen characters", "two spaces"]),
    ],
)
def test_lines_of_twenty_columns(text: str, expected: list[str]) -> None:
    for size in (1, 3, 100):
        assert lines("".join(written(text, size)))[: len(expected)] == expected


def test_characters_appear_at_once_where_a_word_fits() -> None:
    text = "The judge"
    assert written(text, 1, width=80)[: len(text)] == list(text)
    assert ERASE not in "".join(written("one two three " * 50, 1, width=80))


def test_a_long_word_that_has_begun_is_moved_to_the_next_line() -> None:
    word = "x" * (HELD_COLUMNS + 20)
    output = "".join(written("a " * 20 + word, 1, width=80))
    assert ERASE in output
    assert lines(output, 80)[:2] == [("a " * 20).rstrip(), word]


def test_a_new_width_takes_effect_at_the_next_word() -> None:
    wrap = WordWrap(cell_len)
    output = "".join(
        span.text
        for width, text in ((80, "some words "), (10, "more and "), (10, "still more"))
        for span in wrap.push(text, "", width)
    )
    output += "".join(span.text for span in wrap.finish())
    shown = [line.rstrip() for line in output.split("\n")]
    assert shown == ["some words", "more", "and still", "more"]


class FakeTerminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
def test_a_reply_after_its_prompt(monkeypatch: pytest.MonkeyPatch, term: str) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = FakeTerminal()
    screen = Screen(out=out)
    screen.echo("a prompt of more than a line")
    for piece in (" which", " the model", " conti", "nues", " here"):
        screen.write(piece)
    screen.line()
    assert lines(out.getvalue())[:4] == [
        "a prompt of more", "than a line which", "the model continues", "here",
    ]  # fmt: skip


def test_text_for_programs_is_not_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = io.StringIO()
    screen = Screen(color=False, out=out)
    screen.write("one two three four five six seven eight")
    screen.line()
    assert out.getvalue() == "one two three four five six seven eight\n"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("- one two three four five six", ["- one two three four", "  five six"]),
        ("12. one two three four five", ["12. one two three", "    four five"]),
        ("  * 한국어 문장입니다 그리고", ["  * 한국어", "    문장입니다", "    그리고"]),
        ("    one two three four five", ["    one two three", "    four five"]),
        ("a - one two three four five", ["a - one two three", "four five"]),
        ("-one two three four five", ["-one two three four", "five"]),
        ("```\nif one and two and three:\n    pass\n```\none two three four five",
         ["```", "if one and two and t", "hree:", "    pass", "```", "one two three four", "five"]),
        ("```py\n\tone\n  ```\n- a", ["```py", "        one", "  ```", "- a"]),
        ("- " + "x" * 30 + " y", ["- " + "", "  xxxxxxxxxxxxxxxxxx", "xxxxxxxxxxxx y"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 3, 100])
def test_lists_are_indented_and_code_is_not_wrapped(
    text: str, expected: list[str], size: int
) -> None:
    shown = [line for line in lines("".join(written(text, size, before=""))) if line]
    assert shown == [line.rstrip() for line in expected]


def test_a_continued_reply_knows_that_it_is_in_code() -> None:
    code = "one two three four five"
    for before, expected in (
        ("```py\na", [code[:20], code[20:]]),
        ("```\n```", [code[:18], "five"]),
    ):
        shown = [line for line in lines("".join(written(code, before=before))) if line]
        assert shown == expected


@given(st.lists(words), st.integers(1, 7))
def test_markdown_loses_no_word(found: list[str], size: int) -> None:
    shown = "".join(lines("".join(written(" ".join(["-", *found]), size, before="")))).replace(
        " ", ""
    )
    assert shown == "-" + "".join(found)
