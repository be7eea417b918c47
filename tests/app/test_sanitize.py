"""Sanitizer: natural text passes, control characters do not, however the text is split."""

from __future__ import annotations

import json
import re
import unicodedata

import pytest
from conftest import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st

from simplellm.app.sanitize import Sanitizer, safe_json, visible

BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
DANGEROUS = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff{BIDI}]")
ATTACKS = [
    "\x1b[31mred", "\x1b]8;;http://x\x1b\\link\x1b]8;;\x07", "\x1b]52;c;aGk=\x07", "\x1b[6n",
    "\x1bP+q544e\x1b\\", "\x9b31m",
    "\x1b", "\x1b[", "\x1b]0;title", "\x1b(0", "\x1bc", "\x1b[?1049h", "\x1b[2J", "\x9d52;c;?\x9c",
    "\x0e", "a\x08b", "\x07",
    "\x85", "\x7f", "\0", "a\rb", "\r\r\n", "\u202eabc", "\u2066x\u2069", "\u2028", "\ud800",
    "\udc9b31m",
]  # fmt: skip


def tags(text: str) -> str:
    """Invisible ASCII."""
    return "".join(chr(0xE0000 + ord(letter)) for letter in text)


WALES, HIDDEN_TEXT = "\U0001f3f4" + tags("gbwls\x7f"), tags("rm -rf")
PEOPLE_WRITE = [
    "한국어 문장입니다.", unicodedata.normalize("NFD", "한국어 문장"),
    "日本語、中文", "a\tb\n", "\ufffd",
    "e\u0301\u0301",
    "עברית", "العربية", "ن\u200cم", "क्\u200dष", "ภาษา\u200bไทย", "葛\U000e0100城", "soft\xadhyphen",
    "no\xa0break",
    "1\ufe0f\u20e3", "\u2764\ufe0f\u200d\U0001f525", "\U0001f469\u200d\U0001f469\u200d\U0001f467",
    WALES,
    "\U0001f3f3\ufe0f\u200d\U0001f308", "\U0001f3f4\u200d\u2620\ufe0f", "\U0001f1f0\U0001f1f7",
]  # fmt: skip
some_text = st.lists(
    st.text(max_size=8)
    | st.text(alphabet="\r\n\x1b[;\ufe0f\u200d\U0001f3f4\U000e0067a", max_size=8)
    | st.sampled_from(ATTACKS)
).map("".join)


def cut(text: str, places: list[int]) -> list[str]:
    ends = sorted(place % (len(text) + 1) for place in places)
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]


@settings(max_examples=examples(500))
@example("a\r\nb", [2])
@example("\x1b[31m", [1, 2, 3])
@example("\U0001f3f4\U000e0067", [1])
@example("x\ufe0f\ufe0f", [1, 2])
@given(some_text, st.lists(st.integers(0, 100), max_size=6))
def test_the_result_does_not_depend_on_how_the_text_is_split(text: str, places: list[int]) -> None:
    sanitizer = Sanitizer()
    pieces = [sanitizer.push(piece) for piece in cut(text, places)]
    assert "".join(pieces) + sanitizer.finish() == visible(text)
    assert sanitizer.push("new\U000e0067") == visible(
        "new\U000e0067"
    )  # no state of the old text is left


@settings(max_examples=examples(500))
@given(some_text)
def test_no_control_character_is_left_and_sanitizing_is_idempotent(text: str) -> None:
    shown = visible(text)
    assert not DANGEROUS.search(shown)
    assert visible(shown) == shown
    assert shown.encode("utf-8").decode("utf-8") == shown


@settings(max_examples=examples(500))
@given(
    st.text().filter(
        lambda text: all(character.isprintable() or character in "\n\t" for character in text)
    )
)
def test_printable_text_is_unchanged(text: str) -> None:
    selectors = [
        character
        for character in text
        if "\ufe00" <= character <= "\ufe0f" or character >= "\U000e0100"
    ]
    if len(selectors) < 2:
        assert visible(text) == text


@pytest.mark.parametrize("text", PEOPLE_WRITE, ids=ascii)
def test_natural_text_is_unchanged_however_it_is_split(text: str) -> None:
    sanitizer = Sanitizer()
    assert visible(text) == text == "".join(map(sanitizer.push, text)) + sanitizer.finish()
    assert sanitizer.push(text) == text


@pytest.mark.parametrize("attack", ATTACKS, ids=ascii)
def test_an_attack_becomes_visible(attack: str) -> None:
    assert visible(attack).isprintable() or "\n" in visible(attack)
    assert len(visible(attack)) >= len(attack.replace("\r\n", "\n"))


def test_each_unsafe_character_has_a_replacement() -> None:
    assert (
        visible("a\x1bb\x7f\x9b\u202e\n\t\0\ud800")
        == "a\u241bb\u2421<U+009B><U+202E>\n\t\u2400<U+D800>"
    )
    assert visible("a\r\nb\rc\r\r\nd\r") == "a\nb\u240dc\u240d\nd\u240d"


def test_hidden_text_becomes_visible() -> None:
    assert visible("ok" + HIDDEN_TEXT).count("<U+E00") == len(HIDDEN_TEXT)  # ASCII in tags
    assert (
        visible("\U0001f3f4" + HIDDEN_TEXT * 3).count("<U+E00") == 3 * len(HIDDEN_TEXT) - 7
    )  # flags contain tags
    bytes_in_selectors = "\U0001f600" + "\ufe0f\U000e0100\u200d\U000e0101"
    assert visible(bytes_in_selectors) == "\U0001f600\ufe0f<U+E0100>\u200d<U+E0101>"
    assert visible("\ufeffa\u2063\u180e\ufff9") == "<U+FEFF>a<U+2063><U+180E><U+FFF9>"


def test_only_a_carriage_return_waits() -> None:
    sanitizer = Sanitizer()
    assert [sanitizer.push(piece) for piece in ("a\r", "\n", "b\r", "c", "\x1b", "[3", "\r")] == [
        "a", "\n", "b", "\u240dc", "\u241b", "[3", ""]  # fmt: skip
    assert sanitizer.finish() == "\u240d" and sanitizer.finish() == ""


in_json = some_text.filter(
    lambda text: not re.search("[\ud800-\udbff][\udc00-\udfff]", text)
)  # two surrogates become one character there


@settings(max_examples=examples(200))
@given(in_json | st.lists(in_json, max_size=3) | st.dictionaries(in_json, in_json, max_size=3))
def test_safe_json_is_equivalent_and_safe_to_show(value: object) -> None:
    document = safe_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(document) == value
    assert not DANGEROUS.search(document)


def test_safe_json_keeps_letters_of_all_languages() -> None:
    assert safe_json('"한글 \x7f\x9b\u202e"') == '"한글 \\u007f\\u009b\\u202e"'
