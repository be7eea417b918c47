"""Copied passages: the search in the training text."""

from __future__ import annotations

import random
import time
import unicodedata
from collections.abc import Sequence

import numpy as np
import pytest
from conftest import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st

from simplellm.evaluation.copied_text.passages import (
    MAX_PASSAGES,
    PASSAGE_CHARACTERS,
    Copied,
    find_passages,
)
from simplellm.evaluation.copied_text.suffix_array import build_shards
from simplellm.evaluation.copied_text.training_text import TrainingText, sampled_text
from simplellm.evaluation.copied_text.words import DOCUMENT_MARK, words_of

NFD = unicodedata.normalize("NFD", "한글")
LETTERS = ["a", "bc", " ", "\n", ".", "é", "한", "我", NFD[0], NFD[1], "👩\u200d👧", "\udcff"]
texts = st.lists(st.sampled_from(LETTERS), max_size=50).map("".join)


def text_of(*documents: str) -> TrainingText:
    return TrainingText(
        list(build_shards(DOCUMENT_MARK + document for document in documents)),
        np.zeros((0, 2), np.uint32),
        (),
    )


def words(text: str) -> list[tuple[int, int, str]]:
    found = words_of(text)
    return [
        (start, end, text[start:end])
        for start, end in zip(found.starts.tolist(), found.ends.tolist(), strict=True)
    ]


def size(text: str) -> int:
    return sum((2 if character >= "\u2e80" else 1) for character in text if not character.isspace())


def passages_by_search(
    reply: str, documents: Sequence[str], prompt: str, min_characters: int
) -> tuple[float, int]:
    """Share, and size of the longest passage in the reply, by trying every run of words."""
    text, begin = prompt + reply, len(prompt)
    training_words = [[word for *_, word in words(document)] for document in documents]
    reply_words = words(text)
    copied: set[int] = set()
    longest = 0
    for i in range(len(reply_words)):
        for j in range(i + 1, len(reply_words) + 1):
            run = [word for *_, word in reply_words[i:j]]
            if size("".join(run)) >= min_characters and any(
                run == document[k : k + len(run)]
                for document in training_words
                for k in range(len(document))
            ):
                inside = {
                    index
                    for start, end, _ in reply_words[i:j]
                    for index in range(max(start, begin), end)
                }
                copied |= inside
                longest = max(longest, size("".join(text[index] for index in inside)))
    visible = {index for start, end, _ in reply_words for index in range(max(start, begin), end)}
    return len(copied) / max(len(visible), 1), longest


@settings(deadline=None, max_examples=examples(300))
@given(texts, st.lists(texts, min_size=1, max_size=3), texts, st.integers(1, 8))
@example("a a a", ["a a a a"], "", 3)
@example("bc a", ["a bc a"], "a ", 4)
def test_share_and_longest_passage_equal_those_of_an_exhaustive_search(
    reply: str, documents: list[str], prompt: str, min_characters: int
) -> None:
    documents = [document.replace("\udcff", "?") for document in documents]
    reply = reply[:20] + documents[0][3:15] + reply[20:]
    plain, plain_prompt = reply.replace("\udcff", "?"), prompt.replace("\udcff", "?")
    share, longest = passages_by_search(plain, documents, plain_prompt, min_characters)
    for text in (
        text_of(*documents),
        sampled_text(prompt + reply, [DOCUMENT_MARK.join(["", *documents])], min_characters),
    ):
        found = find_passages(reply, [text], prompt, min_characters)
        assert found.share == pytest.approx(share)
        assert (size(found.passages[0].text) if found.passages else 0) == longest
        check_passages(found, plain, documents, plain_prompt)


def check_passages(found: Copied, reply: str, documents: Sequence[str], prompt: str) -> None:
    """Passages occur in the reply and in a document, do not overlap, and are sorted by length."""
    sizes = [size(passage.text) for passage in found.passages]
    assert sizes == sorted(sizes, reverse=True) and len(sizes) <= MAX_PASSAGES
    for passage in found.passages:
        without_spaces = "".join(passage.text.split())
        assert (
            reply.lstrip().startswith(passage.text)
            if passage.began_before
            else passage.text in reply
        )
        assert any(without_spaces in "".join(document.split()) for document in documents)
        assert prompt or not passage.began_before
    assert sum(sizes) <= size(reply)


def test_white_space_is_neither_compared_nor_counted() -> None:
    text = text_of("It was the best of times,\nit was the worst  of times.")
    found = find_passages("\n it was the worst\nof times. ", [text])
    assert found.share == 1.0 and found.passages[0].text == "it was the worst\nof times."
    assert find_passages("itwas the worst of times.", [text]).share < 1.0


@pytest.mark.parametrize(
    ("reply", "is_passage"),
    [
        ("abcde fghij klmno pqrst", True),
        ("abcde fghij klmno pqrs", False),
        ("나는 어제 학교에 갔습니다", True),
        ("어제 학교에 갔습니다", False),
        ("我昨天去了学校上课。", True),
        ("我昨天去了学校上课", False),
    ],
)
def test_a_passage_has_twenty_visible_characters_or_ten_wide_ones(
    reply: str, is_passage: bool
) -> None:
    assert (size(reply) >= PASSAGE_CHARACTERS) == is_passage
    found = find_passages(f"x {reply} y", [text_of(f"z {reply} z")])
    assert [passage.text for passage in found.passages] == [reply] * is_passage


def test_a_passage_ends_with_whole_words() -> None:
    text = text_of("the car that he had bought in the carpark yesterday")
    found = find_passages("hecar that he had bought in the carp", [text])
    assert [passage.text for passage in found.passages] == ["that he had bought in the"]
    assert (
        find_passages(
            unicodedata.normalize("NFD", "각나다라마바사아자차가"),
            [text_of("가나다라마바사아자차각")],
        ).share
        == 0
    )


def test_a_passage_does_not_cross_documents() -> None:
    assert (
        find_passages(
            "one two three four five six", [text_of("one two three", "four five six")]
        ).share
        == 0.0
    )


def test_a_passage_that_began_in_the_prompt_counts_with_its_part_in_the_reply() -> None:
    text = text_of("Once upon a time there was a king who had three sons")
    found = find_passages("on a time there was. Not so", [text], prompt="Then: Once up")
    assert [(passage.text, passage.began_before) for passage in found.passages] == [
        ("on a time there was", True)
    ]
    assert found.share == pytest.approx(15 / 21)
    assert find_passages("on a time", [text]).share == 0.0
    assert (
        find_passages("Nothing of it", [text], prompt="Once upon a time there was a king").passages
        == ()
    )


def test_passages_are_sorted_by_length_and_do_not_overlap() -> None:
    text = text_of(
        "a b c d e f g h i j k l m n o p q r s t u v w x y z " * 2,
        "9 8 7 6 5 4 3 2 1 0 w x y z " * 2,
    )
    alphabet = "a b c d e f g h i j k l m n o p q r s t u v w x y z"
    reply = f"9 8 7 6 5 4 3 2 1 0 w x y z {alphabet} ! {alphabet[:39]}"
    found = [passage.text for passage in find_passages(reply, [text], min_characters=4).passages]
    assert found == [f"w x y z {alphabet}", alphabet[:39], "9 8 7 6 5 4 3 2 1 0"]


def test_passages_of_several_texts_are_found() -> None:
    parts = "the first of all these long sentences", "the second of all these long sentences"
    reply = ". ".join(parts)
    found = find_passages(reply, [text_of(parts[0]), text_of(parts[1])])
    assert {passage.text for passage in found.passages} == set(parts)
    assert found.share == pytest.approx(1 - 1 / size(reply)), "all except the period between them"


@pytest.mark.parametrize("reply", ["", " \n ", "\udcff", "한", "word"])
def test_an_empty_reply_or_text_has_no_passages(reply: str) -> None:
    assert find_passages(reply, [text_of("some text")]) == Copied(0.0, ())
    assert find_passages(reply, [text_of("")]) == find_passages(reply, []) == Copied(0.0, ())


def test_a_search_takes_milliseconds(story: str) -> None:
    vocabulary = story.split()
    text = text_of(" ".join(random.Random(1).choices(vocabulary, k=300_000)) + story)
    started_at = time.perf_counter()
    assert find_passages(story[1000:2000], [text]).share > 0.99
    assert time.perf_counter() - started_at < 0.5  # 0.01 measured alone
