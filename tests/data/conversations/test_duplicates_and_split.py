"""Duplicates of conversations, and the split by whole conversations."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simplellm.data.conversations.conversation import Conversation, Turn
from simplellm.data.conversations.duplicates import related, without_duplicates, without_those_of
from simplellm.data.conversations.normal_form import alternating
from simplellm.data.conversations.split import Split, split_conversations
from simplellm.errors import TextError

LONG = "나는 어제 도서관에서 책을 읽었어. " * 10


def conversation(*texts: str, system: str = "", source: str = "a.jsonl line 1") -> Conversation:
    first = [Turn("system", system)] if system else []
    return Conversation((*first, *alternating(texts)), source)


def many(count: int, seed: int = 0) -> list[Conversation]:
    generator = random.Random(seed)
    return [
        conversation(f"질문 {number}", "답 " * generator.randrange(1, 30), source=str(number))
        for number in range(count)
    ]


def test_equal_conversations_are_left_out_with_a_notice() -> None:
    one, other = conversation("안녕", "응"), conversation("안녕", "왜?")
    copies = [conversation("안녕", "응 \n", source="b.jsonl line 7"), conversation("안녕", "응")]
    notices: list[str] = []
    assert without_duplicates([one, copies[0], other, copies[1]], notices.append) == [one, other]
    assert notices == ["left out: 2 conversations that occur more than once"]
    assert without_duplicates([one, other], notices.append) == [one, other] and len(notices) == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (conversation("안녕!", "Yes, sir."), conversation("안녕", "yes sir")),
        (conversation("안녕", "응", system="짧게"), conversation("안녕", "응")),
        (conversation("안녕", LONG), conversation("안녕", LONG, "그래", "응")),
        (conversation("안녕", LONG, "그래", "응"), conversation("안녕", LONG)),
        (conversation("안녕", "😀"), conversation("안녕", " 😀")),
    ],
    ids=["punctuation", "system", "beginning", "continuation", "emoji"],
)
def test_related_conversations_are_one_group(first: Conversation, second: Conversation) -> None:
    assert related([conversation("딴", "것"), first, second]) == [0, 1, 1]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (conversation("안녕", "응"), conversation("안녕", "왜?")),
        (conversation("안녕", "응"), conversation("안녕", "응", "그래", "응")),
        (conversation("안녕", "😀"), conversation("안녕", "😢")),
        (conversation("가나", "다"), conversation("가", "나다")),
        (conversation("안녕", LONG, "가", "나"), conversation("안녕", LONG, "다", "라")),
    ],
    ids=["other reply", "short greeting", "emoji", "other turns", "other end"],
)
def test_other_conversations_are_not_related(first: Conversation, second: Conversation) -> None:
    assert related([first, second]) == [0, 1]


def test_conversations_that_begin_with_the_same_one_are_one_group() -> None:
    begin = conversation("안녕", LONG)
    longer = [conversation("안녕", LONG, "가", "나"), conversation("안녕", LONG, "다", "라")]
    assert related([longer[0], longer[1], begin]) == [0, 0, 0]


def test_those_of_the_validation_data_are_left_out_with_a_notice() -> None:
    train = [conversation("가", "나"), conversation("안녕!", "응"), conversation("다", "라")]
    notices: list[str] = []
    kept = without_those_of(train, [conversation("안녕", "응")], notices.append)
    assert kept == [train[0], train[2]]
    assert notices == [
        "left out of the training data: 1 conversations that are also in the validation data"
    ]
    assert without_those_of(train, [], notices.append) == train and len(notices) == 1


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1])
def test_about_the_fraction_of_the_replies_is_held_out(fraction: float, seed: int) -> None:
    conversations = many(200)
    split = split_conversations(conversations, fraction, seed)
    sizes = [sum(one.n_reply_characters for one in side) for side in (split.train, split.held_out)]
    assert sizes[1] / sum(sizes) == pytest.approx(fraction, abs=0.01)


def test_a_split_is_the_same_for_the_same_seed_only() -> None:
    conversations = many(50)
    assert split_conversations(conversations, 0.2, 3) == split_conversations(conversations, 0.2, 3)
    held_out = {split_conversations(conversations, 0.2, seed).held_out for seed in range(5)}
    assert len(held_out) == 5


def test_a_giant_conversation_is_not_held_out() -> None:
    giant = conversation("다 말해 줘", "그래. " * 10_000)
    for seed in range(10):
        split = split_conversations([*many(20), giant], 0.1, seed)
        assert giant in split.train and split.held_out


def test_two_conversations_can_be_split() -> None:
    short, long = conversation("가", "나"), conversation("다", "라마바사")
    assert split_conversations([short, long], 0.1, 0) == Split((long,), (short,))


@pytest.mark.parametrize(
    "conversations",
    [[], [conversation("가", "나")], [conversation("가", "나"), conversation("가!", "나.")]],
    ids=["none", "one", "related"],
)
def test_what_cannot_be_split_is_an_error(conversations: list[Conversation]) -> None:
    with pytest.raises(TextError, match="cannot be split") as caught:
        split_conversations(conversations, 0.1, 0)
    assert "--val-data" in caught.value.fix


def test_nothing_is_held_out_of_a_fraction_of_zero() -> None:
    conversations = many(3)
    assert split_conversations(conversations, 0.0, 0) == Split(tuple(conversations), ())


texts = st.lists(st.sampled_from(["가", "나!", "나", LONG, "다"]), min_size=2, max_size=4)


@settings(max_examples=20)
@given(st.lists(texts, min_size=2, max_size=12), st.floats(0.01, 0.9), st.integers(0, 9))
def test_a_split_keeps_all_conversations_whole_and_related_ones_together(
    said: list[list[str]], fraction: float, seed: int
) -> None:
    conversations = without_duplicates(
        conversation(*one, source=str(number)) for number, one in enumerate(said)
    )
    groups = dict(zip(conversations, related(conversations), strict=True))
    if len(set(groups.values())) < 2:
        return
    train, held_out = (
        list(side) for side in vars(split_conversations(conversations, fraction, seed)).values()
    )
    assert train and held_out
    assert sorted([*train, *held_out], key=conversations.index) == conversations
    assert [one for one in conversations if one in train] == train, "the order is kept"
    assert not {groups[one] for one in train} & {groups[one] for one in held_out}
