"""The suffix array of words finds what a search through the whole text finds."""

from __future__ import annotations

import time

import numpy as np
import pytest
from conftest import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from test_words import texts, words

from simplellm.evaluation.copied_text import suffix_array as suffix_array
from simplellm.evaluation.copied_text import words as word_module
from simplellm.evaluation.copied_text.suffix_array import Shard, build_shards
from simplellm.evaluation.copied_text.words import BREAK, DOCUMENT_MARK, words_of


def longest_by_search(needle: list[str], text: str) -> int:
    """Length of the longest prefix of `needle` in a document of `text`, by exhaustive search."""
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
    """The words of `text` as numbers, up to the first word that the shard lacks."""
    numbers = shard.numbers(words_of(text).hashes)
    unknown = np.flatnonzero(numbers == BREAK)
    return numbers[: unknown[0]] if len(unknown) else numbers


@settings(deadline=None, max_examples=examples(300))
@given(texts, texts, st.booleans())
def test_the_longest_match_equals_that_of_an_exhaustive_search(
    text: str, other: str, in_characters: bool
) -> None:
    whole = DOCUMENT_MARK + text + DOCUMENT_MARK + other
    for sample in (text[5:] + other, other + text, text[1:9] * 3):
        shards = list(build_shards(whole if in_characters else [whole]))
        found = max((shard.longest_match(known(shard, sample)) for shard in shards), default=0)
        assert found == longest_by_search(words(sample), whole)


@settings(deadline=None, max_examples=examples(150))
@given(texts, texts)
def test_the_first_position_is_the_first_occurrence(text: str, sample: str) -> None:
    (shard,) = build_shards([DOCUMENT_MARK + text])
    needle = known(shard, sample)
    found, wanted = words(text), words(sample)[: len(needle)]
    positions = [
        i + 1 for i in range(len(found)) if found[i : i + len(wanted)] == wanted
    ]  # the mark is word 0
    assert not wanted or shard.first_position(needle) == (positions[0] if positions else None)


@settings(deadline=None, max_examples=examples(150))
@given(texts, texts, texts)
def test_an_index_of_the_sample_words_alone_finds_the_same_matches(
    text: str, other: str, sample: str
) -> None:
    whole = DOCUMENT_MARK + text + other + DOCUMENT_MARK + other
    hashes = np.unique(words_of(sample).hashes)
    (shard,) = build_shards([whole], hashes, 0)
    assert shard.longest_match(known(shard, sample)) == longest_by_search(words(sample), whole)
    (shard,) = build_shards([DOCUMENT_MARK + text + other], hashes, 4)
    found, expected = (
        shard.longest_match(known(shard, sample)),
        longest_by_search(words(sample), text + other),
    )
    assert found == expected or len("".join(words(sample)[:expected])) < 4, (
        "a shorter run may be left out"
    )


@settings(deadline=None, max_examples=examples(100))
@given(texts, texts, st.integers(1, 9))
def test_matches_up_to_the_length_of_the_overlap_are_found_across_shards(
    text: str, other: str, overlap: int
) -> None:
    whole = DOCUMENT_MARK + text + " " + other
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suffix_array, "SHARD_WORDS", 2 * overlap)
        patch.setattr(suffix_array, "OVERLAP_WORDS", overlap)
        shards = list(build_shards(whole))
    needle = words(other)[: overlap + 1]
    found = max(
        (shard.longest_match(known(shard, " ".join(needle))) for shard in shards), default=0
    )
    assert found == longest_by_search(needle, whole)
    lines = np.concatenate([shard.lines for shard in shards])
    (alone,) = build_shards([whole])
    assert lines.tolist() == alone.lines.tolist()
    assert np.concatenate([shard.marks for shard in shards]).tolist() == alone.marks.tolist() == [0]


@settings(deadline=None, max_examples=examples(100))
@given(texts)
def test_suffixes_are_sorted(text: str) -> None:
    (shard,) = build_shards([DOCUMENT_MARK + text])
    numbers = shard.words.tolist()
    assert shard.order.tolist() == sorted(range(len(numbers)), key=lambda start: numbers[start:])


def test_positions_of_lines_and_documents() -> None:
    (shard,) = build_shards([DOCUMENT_MARK + "a b\n\nc\n", DOCUMENT_MARK + "\nd e", "f\n"])
    #                   word 0        1 2     3     4                5 6
    assert shard.marks.tolist() == [0, 4]
    assert shard.lines.tolist() == [0, 3, 3, 4, 4, 5, 7]


def test_a_text_without_white_space_is_indexed() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(word_module, "MAX_BUFFER_CHARACTERS", 10)
        (shard,) = build_shards(["ab" * 3, "我們" * 20, "x y"])
    assert shard.longest_match(known(shard, "們我們我")) == 4


def test_a_long_repetition_is_sorted_and_searched_in_time() -> None:
    started_at = time.perf_counter()
    (shard,) = build_shards([DOCUMENT_MARK + "ha " * 300_000])
    assert shard.longest_match(known(shard, "ha " * 10_000)) >= suffix_array.SORTED_WORDS
    assert time.perf_counter() - started_at < 5.0
