"""The sorted index of words finds what a search through all of the text finds, however the text is cut."""

from __future__ import annotations

import time
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simplellm.evaluation import concordance
from simplellm.evaluation.concordance import DOCUMENT_MARK, Shard, build, words_of

NFD = unicodedata.normalize("NFD", "한글")
LETTERS = ["a", "b", " ", "\n", ".", "é", "한", "我", NFD[0], NFD[1], "e\u0301", "👩\u200d👧", "🇰🇷"]
texts = st.lists(st.sampled_from(LETTERS), max_size=60).map("".join)


def words(text: str) -> list[str]:
    found = words_of(text)
    return [text[start:end] for start, end in zip(found.starts, found.ends, strict=True)]


def naive_longest(needle: list[str], text: str) -> int:
    """The most words of the beginning of `needle` that stand one after another in a document of `text`."""
    documents = [words(document) for document in text.split(DOCUMENT_MARK)]
    lengths = range(len(needle), 0, -1)
    return next(
        (
            n
            for n in lengths
            if any(needle[:n] == found[i : i + n] for found in documents for i in range(len(found)))
        ),
        0,
    )


def known(shard: Shard, text: str) -> np.ndarray:
    """The words of `text` as numbers, up to the first the shard does not have."""
    numbers = shard.numbers(words_of(text).hashes)
    unknown = np.flatnonzero(numbers == concordance.BREAK)
    return numbers[: unknown[0]] if len(unknown) else numbers


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
def test_a_word_is_what_a_reader_takes_for_one(text: str, expected: str) -> None:
    assert words(text) == [word for word in expected.split("|") if word]


def is_white(character: str) -> bool:
    return character.isspace() or unicodedata.category(character).startswith("Z")


@given(st.text(max_size=80))
def test_words_are_all_that_is_no_white_space(text: str) -> None:
    assert "".join(words(text)) == "".join(
        character for character in text if not is_white(character)
    )
    assert all(word and not any(map(is_white, word)) for word in words(text))


@given(texts, texts)
def test_hashes_are_equal_for_equal_words_alone(left: str, right: str) -> None:
    both = [
        *zip(words(left), words_of(left).hashes, strict=True),
        *zip(words(right), words_of(right).hashes, strict=True),
    ]
    pairs = [(word, int(number)) for word, number in both]
    assert (
        len(set(pairs)) == len({word for word, _ in pairs}) == len({number for _, number in pairs})
    )


@settings(deadline=None, max_examples=300)
@given(texts, texts, st.booleans())
def test_the_longest_run_of_words_is_the_one_a_search_finds(
    text: str, other: str, is_cut: bool
) -> None:
    whole = DOCUMENT_MARK + text + DOCUMENT_MARK + other
    for sought in (text[5:] + other, other + text, text[1:9] * 3):
        shards = list(build(whole if is_cut else [whole]))
        found = max((shard.longest(known(shard, sought)) for shard in shards), default=0)
        assert found == naive_longest(words(sought), whole)


@settings(deadline=None, max_examples=150)
@given(texts, texts)
def test_a_run_of_words_stands_at_the_first_of_its_places(text: str, sought: str) -> None:
    (shard,) = build([DOCUMENT_MARK + text])
    needle = known(shard, sought)
    there, wanted = words(text), words(sought)[: len(needle)]
    places = [
        i + 1 for i in range(len(there)) if there[i : i + len(wanted)] == wanted
    ]  # the mark is word 0
    assert not wanted or shard.first_place(needle) == (places[0] if places else None)


@settings(deadline=None, max_examples=150)
@given(texts, texts, texts)
def test_a_text_of_the_sought_words_alone_is_enough_to_find_them(
    text: str, other: str, sought: str
) -> None:
    whole = DOCUMENT_MARK + text + other + DOCUMENT_MARK + other
    hashes = np.unique(words_of(sought).hashes)
    (shard,) = build([whole], hashes, 0)
    assert shard.longest(known(shard, sought)) == naive_longest(words(sought), whole)
    (shard,) = build([DOCUMENT_MARK + text + other], hashes, 4)
    found, expected = (
        shard.longest(known(shard, sought)),
        naive_longest(words(sought), text + other),
    )
    assert found == expected or len("".join(words(sought)[:expected])) < 4, (
        "what is shorter may be left out"
    )


@settings(deadline=None, max_examples=100)
@given(texts, texts, st.integers(1, 9))
def test_shards_lose_nothing_that_fits_into_their_overlap(
    text: str, other: str, overlap: int
) -> None:
    whole = DOCUMENT_MARK + text + " " + other
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(concordance, "SHARD_WORDS", 2 * overlap)
        patch.setattr(concordance, "OVERLAP_WORDS", overlap)
        shards = list(build(whole))
    needle = words(other)[: overlap + 1]
    found = max((shard.longest(known(shard, " ".join(needle))) for shard in shards), default=0)
    assert found == naive_longest(needle, whole)
    everywhere = np.concatenate([shard.lines for shard in shards])
    (alone,) = build([whole])
    assert everywhere.tolist() == alone.lines.tolist()
    assert np.concatenate([shard.marks for shard in shards]).tolist() == alone.marks.tolist() == [0]


@settings(deadline=None, max_examples=100)
@given(texts)
def test_the_order_is_that_of_all_that_follows(text: str) -> None:
    (shard,) = build([DOCUMENT_MARK + text])
    numbers = shard.words.tolist()
    assert shard.order.tolist() == sorted(range(len(numbers)), key=lambda start: numbers[start:])


def test_lines_and_documents_begin_where_they_do() -> None:
    (shard,) = build([DOCUMENT_MARK + "a b\n\nc\n", DOCUMENT_MARK + "\nd e", "f\n"])
    #                   word 0        1 2     3     4                5 6
    assert shard.marks.tolist() == [0, 4]
    assert shard.lines.tolist() == [0, 3, 3, 4, 4, 5, 7]


def test_a_text_without_white_space_is_read_on() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(concordance, "LONGEST_CUT_CHARACTERS", 10)
        (shard,) = build(["ab" * 3, "我們" * 20, "x y"])
    assert shard.longest(known(shard, "們我們我")) == 4


def test_a_text_of_nothing_but_repetition_is_sorted_and_searched_in_time() -> None:
    started_at = time.perf_counter()
    (shard,) = build([DOCUMENT_MARK + "ha " * 300_000])
    assert shard.longest(known(shard, "ha " * 10_000)) >= concordance.SORTED_WORDS
    assert time.perf_counter() - started_at < 5.0
