"""Name replacement: names change consistently within a passage, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from simplellm.data.bpe_dropout import Segmenter
from simplellm.data.name_augmentation import Renamer, kind_of
from simplellm.data.tokenizer import Tokenizer

WORDS = [
    " the",
    " Hermia",
    " Lysander",
    " moon",
    " Helena",
    " Theseus",
    ".",
    " 달이",
    " 철수는",
    " 영희는",
]
COUNTS = [500, 9, 9, 9, 9, 9, 400, 400, 9, 9]
PASSAGE = 100


def renamer(seed: int = 1) -> Renamer:
    return Renamer(WORDS, COUNTS, PASSAGE, seed)


def renamed(words: list[int], counts: list[int], share: float = 1.0, seed: int = 1) -> list[str]:
    one = renamer(seed)
    numbers = one(np.array(words), np.array(counts), share, np.random.default_rng(seed))
    return [[*WORDS, *one.made_up][number] for number in numbers]


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("Hermia", ("", "title")), (" HERMIA", (" ", "upper")), (" moon", (" ", "lower")),
        ("_moon", ("_", "lower")), (" 달", (" ", "other")), ("ab", None), (" the-", None),
        (".", None), ("", None), (" 12", None), ("\n", None),
    ],
)  # fmt: skip
def test_a_kind_is_the_prefix_and_the_case_of_a_word(
    word: str, kind: tuple[str, str] | None
) -> None:
    assert kind_of(word) == kind


@given(seed=st.integers(0, 1000), share=st.floats(0, 1))
@settings(deadline=None, max_examples=examples(50))
def test_a_name_is_replaced_by_one_of_its_kind(seed: int, share: float) -> None:
    words = list(range(len(WORDS)))
    for before, after in zip(words, renamed(words, [6] * len(words), share, seed), strict=True):
        assert kind_of(after) == kind_of(WORDS[before])


def test_common_words_and_words_that_occur_once_are_kept() -> None:
    for seed in range(20):
        assert renamed([0, 6, 7, 1, 2], [5, 5, 5, 1, 1], seed=seed) == [
            " the",
            ".",
            " 달이",
            " Hermia",
            " Lysander",
        ]


def test_a_fraction_of_the_names_is_replaced() -> None:
    words, counts = [1, 2, 4, 5] * 500, [6] * 2000
    for share in (0.0, 0.3, 1.0):
        after = renamed(words, counts, share)
        changed = np.mean(
            [WORDS[before] != word for before, word in zip(words, after, strict=True)]
        )
        assert 0.85 * share - 0.05 < changed < share + 0.05, "a few are replaced by themselves"


def test_some_new_names_are_made_up() -> None:
    made_up = renamer().made_up
    assert made_up and not set(made_up) & set(WORDS)
    assert set(renamed([1, 2, 4, 5] * 50, [6] * 200)) & set(made_up)
    assert [word for word in made_up if word.startswith(" ") and "가" <= word[1] <= "힣"], (
        "in any script"
    )


@given(
    texts=st.lists(st.text(max_size=60), min_size=1, max_size=3),
    share=st.floats(0, 1),
    passage=st.integers(1, 50),
)
@settings(deadline=None, max_examples=examples(30))
def test_any_text_can_be_augmented(texts: list[str], share: float, passage: int) -> None:
    tokenizer = Tokenizer({bytes([byte]): byte for byte in range(256)})
    ids = Segmenter(texts, tokenizer, 0.1, 1, share, passage)(0)
    assert (ids == tokenizer.end_of_text).sum() == len(texts)


@pytest.mark.parametrize("bpe_dropout", [0.0, 0.5])
def test_a_name_has_the_same_ids_throughout_a_passage(
    tokenizer: Tokenizer, story: str, bpe_dropout: float
) -> None:
    text = "Zanzibarius = Quillon. " * 10 + story * 30
    segmenter, seen = Segmenter([text], tokenizer, bpe_dropout, 3, 1.0, passage=100), set()
    for epoch in range(20):
        parts = tokenizer.decode(segmenter(epoch)).split(" = ")[1:10]
        names = [part.split(". ")[-1] for part in parts]
        assert len(set(names)) <= 2, "a passage may end between them"
        seen |= set(names)
    assert len(seen) > 5 and any(name not in text for name in seen)
