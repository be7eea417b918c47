"""How a text is divided into words, and the hashes of words."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simplellm.evaluation.copied_text.words import words_of

NFD = unicodedata.normalize("NFD", "한글")
LETTERS = ["a", "b", " ", "\n", ".", "é", "한", "我", NFD[0], NFD[1], "e\u0301", "👩\u200d👧", "🇰🇷"]
texts = st.lists(st.sampled_from(LETTERS), max_size=60).map("".join)


def words(text: str) -> list[str]:
    found = words_of(text)
    return [text[start:end] for start, end in zip(found.starts, found.ends, strict=True)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, wörld don't  stop\n", "Hello|,|wörld|don|'|t|stop"),
        ("snake_case 3.14 x2", "snake|_|case|3|.|14|x2"),
        ("한국어는 좋다.", "한국어는|좋다|."),
        (unicodedata.normalize("NFD", "한국어 été"), unicodedata.normalize("NFD", "한국어|été")),
        ("我喜歡abc。カタカナ", "我|喜|歡|abc|。|カ|タ|カ|ナ"),
        ("สวัสดี", "ส|วั|ส|ดี"),
        ("привет мир", "привет|мир"),
        ("👩\u200d👩\u200d👧👍🏽 ❤️!", "👩\u200d👩\u200d👧|👍🏽|❤️|!"),
        ("a\u00a0b\u3000c\td", "a|b|c|d"),
        ("\x00\x1b[0m", "\x00|\x1b|[|0m"),
        ("", ""),
        (" \n", ""),
    ],
)
def test_words_of_many_scripts(text: str, expected: str) -> None:
    assert words(text) == [word for word in expected.split("|") if word]


def is_white(character: str) -> bool:
    return character.isspace() or unicodedata.category(character).startswith("Z")


@given(st.text(max_size=80))
def test_words_contain_all_characters_except_white_space(text: str) -> None:
    assert "".join(words(text)) == "".join(
        character for character in text if not is_white(character)
    )
    assert all(word and not any(map(is_white, word)) for word in words(text))


@given(texts, texts)
def test_hashes_are_equal_only_for_equal_words(left: str, right: str) -> None:
    both = [
        *zip(words(left), words_of(left).hashes, strict=True),
        *zip(words(right), words_of(right).hashes, strict=True),
    ]
    pairs = [(word, int(number)) for word, number in both]
    assert (
        len(set(pairs)) == len({word for word, _ in pairs}) == len({number for _, number in pairs})
    )
