"""Segmentation: every epoch has its own deterministic encoding of the text."""

from __future__ import annotations

import pytest
from conftest import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simplellm.data.bpe_dropout import Segmenter
from simplellm.data.tokenizer import Tokenizer

law = settings(
    deadline=None,
    max_examples=examples(50),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@law
@given(
    texts=st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=3), seed=st.integers(0, 5)
)
def test_every_epoch_decodes_to_the_same_text(
    tokenizer: Tokenizer, texts: list[str], seed: int
) -> None:
    segmenter = Segmenter(texts, tokenizer, 0.5, seed)
    for epoch in range(3):
        assert tokenizer.decode(segmenter(epoch)) == "".join(texts)


@law
@given(texts=st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=3))
def test_without_dropout_an_epoch_is_the_plain_encoding(
    tokenizer: Tokenizer, texts: list[str]
) -> None:
    plain = [token for text in texts for token in [tokenizer.end_of_text, *tokenizer.encode(text)]]
    assert Segmenter(texts, tokenizer, 0.0, 1)(4).tolist() == plain


def test_a_fraction_of_the_words_has_the_plain_encoding(tokenizer: Tokenizer, story: str) -> None:
    segmenter, plain = (
        Segmenter([story], tokenizer, 0.5, 1),
        [tokenizer.end_of_text, *tokenizer.encode(story)],
    )
    lengths = [len(segmenter(0, merged)) for merged in (1.0, 0.7, 0.3, 0.0)]
    assert segmenter(3, 1.0).tolist() == plain and lengths == sorted(set(lengths))


def test_an_epoch_depends_only_on_seed_and_number(tokenizer: Tokenizer, story: str) -> None:
    first, second = (Segmenter([story], tokenizer, 0.3, 7) for _ in range(2))
    in_order = [first(epoch).tolist() for epoch in range(3)]
    assert in_order == [second(epoch).tolist() for epoch in (0, 1, 2)]
    assert in_order[0] == second(0).tolist(), "earlier calls have no effect"


@pytest.mark.parametrize("other", [(7, 1), (8, 0)])
def test_other_epochs_and_seeds_give_other_segmentations(
    tokenizer: Tokenizer, story: str, other: tuple[int, int]
) -> None:
    seed, epoch = other
    assert (
        Segmenter([story], tokenizer, 0.3, seed)(epoch).tolist()
        != Segmenter([story], tokenizer, 0.3, 7)(0).tolist()
    )


def test_more_dropout_gives_more_tokens(tokenizer: Tokenizer, story: str) -> None:
    lengths = [
        len(Segmenter([story], tokenizer, probability, 1)(0))
        for probability in (0.0, 0.2, 0.5, 0.9)
    ]
    assert lengths == sorted(set(lengths))


def test_end_of_text_precedes_each_document(tokenizer: Tokenizer) -> None:
    ids = Segmenter(["ab", "cd"], tokenizer, 0.9, 1)(0).tolist()
    assert ids[0] == tokenizer.end_of_text and ids.count(tokenizer.end_of_text) == 2
