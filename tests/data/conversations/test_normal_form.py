"""The normal form of conversations: one test for each rule, and its laws for any turns."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from conftest import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from simplellm.data.conversations.conversation import ROLES, Turn
from simplellm.data.conversations.normal_form import (
    AFTER_LAST_REPLY,
    EMPTY_TURN,
    NO_ANSWER,
    NO_QUESTION,
    alternating,
    normal_form,
)

SYSTEM, HELLO, HI = (
    Turn("system", "짧게 답해."),
    Turn("user", "안녕"),
    Turn("assistant", "안녕하세요!"),
)
MORE, BYE = Turn("user", "잘 지내?"), Turn("assistant", "네.")


def result(*turns: Turn) -> tuple[list[Turn] | None, dict[str, int]]:
    """The turns of the normal form, and what was dropped."""
    dropped: Counter[str] = Counter()
    conversation = normal_form(turns, "a.jsonl line 3", dropped)
    return conversation and list(conversation.turns), dict(+dropped)


@pytest.mark.parametrize(
    "turns",
    [[HELLO, HI], [SYSTEM, HELLO, HI, MORE, BYE], [HELLO, HI, SYSTEM, MORE, BYE], [HI, MORE, BYE]],
    ids=["pair", "system first", "system in the middle", "greeting first"],
)
def test_these_conversations_stay_as_they_are(turns: list[Turn]) -> None:
    assert result(*turns) == (turns, {})


def test_the_source_is_kept() -> None:
    conversation = normal_form([HELLO, HI], "a.jsonl line 3", Counter())
    assert conversation is not None and conversation.source == "a.jsonl line 3"


@pytest.mark.parametrize("blank", ["", " ", "\n\t", "\u3000"])
def test_empty_turns_are_dropped_and_their_neighbours_joined(blank: str) -> None:
    turns, dropped = result(HELLO, Turn("assistant", blank), MORE, HI)
    assert turns == [Turn("user", "안녕\n잘 지내?"), HI] and dropped == {EMPTY_TURN: 1}


def test_neighbouring_turns_of_one_role_are_joined_with_a_newline() -> None:
    turns, dropped = result(SYSTEM, SYSTEM, HELLO, MORE, HI, BYE)
    assert turns == [
        Turn("system", "짧게 답해.\n짧게 답해."), Turn("user", "안녕\n잘 지내?"),
        Turn("assistant", "안녕하세요!\n네."),
    ]  # fmt: skip
    assert dropped == {}


def test_a_joined_turn_has_the_name_that_all_its_parts_have() -> None:
    minsu, yuna = Turn("user", "하나", "민수"), Turn("user", "둘", "유나")
    assert result(minsu, minsu, HI)[0] == [Turn("user", "하나\n하나", "민수"), HI]
    assert result(minsu, yuna, HI)[0] == [Turn("user", "하나\n둘", None), HI]


def test_a_joined_reply_is_learned_only_if_all_its_parts_are() -> None:
    context = Turn("assistant", "틀린 답", is_learned=False)
    turns, _ = result(HELLO, context, HI, MORE, BYE)
    assert turns and [turn.is_learned for turn in turns] == [True, False, True, True]


@pytest.mark.parametrize("rest", [[MORE], [SYSTEM], [MORE, SYSTEM]])
def test_turns_after_the_last_reply_are_dropped(rest: list[Turn]) -> None:
    assert result(HELLO, HI, *rest) == ([HELLO, HI], {AFTER_LAST_REPLY: len(rest)})


def test_a_last_reply_that_is_not_learned_is_dropped_too() -> None:
    context = Turn("assistant", "틀린 답", is_learned=False)
    assert result(HELLO, HI, MORE, context) == ([HELLO, HI], {AFTER_LAST_REPLY: 2})


@pytest.mark.parametrize("turns", [[HELLO], [SYSTEM, HELLO, MORE], [HI, HELLO], [HELLO, SYSTEM]])
def test_a_conversation_that_nobody_answers_is_dropped(turns: list[Turn]) -> None:
    assert result(*turns) == (None, {NO_ANSWER: 1})


@pytest.mark.parametrize("turns", [[HI], [SYSTEM, HI, BYE], [SYSTEM], [], [Turn("user", " "), HI]])
def test_a_conversation_without_a_user_is_dropped(turns: list[Turn]) -> None:
    assert result(*turns) == (None, {NO_QUESTION: 1})


def test_alternating_texts_begin_with_the_user() -> None:
    assert alternating(["안녕", "안녕하세요!", "잘 지내?"]) == [HELLO, HI, MORE]
    assert alternating([]) == []


@settings(max_examples=examples(40))
@given(
    st.lists(
        st.builds(
            Turn,
            st.sampled_from(ROLES),
            st.sampled_from(["", " \n", "가", "네\n네", "a"]),
            st.sampled_from([None, "민수"]),
            st.booleans(),
        )
    )
)
def test_the_normal_form_has_its_promised_properties(turns: list[Turn]) -> None:
    dropped: Counter[str] = Counter()
    conversation = normal_form(turns, "x", dropped)
    if conversation is None:
        assert dropped.total() == 1
        return
    kept = conversation.turns
    assert conversation.has_reply and kept[-1].is_reply
    assert all(turn.text.strip() for turn in kept)
    assert all(first.role != second.role for first, second in pairwise(kept))
    assert normal_form(kept, "x", Counter()) == conversation, "normal forms do not change"
    spoken = "\n".join(turn.text for turn in turns if turn.text.strip())
    assert spoken.startswith("\n".join(turn.text for turn in kept)), (
        "no text is lost before the end"
    )
