"""Conversations: what is a reply, and which conversations are equal."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simplellm.data.conversations.conversation import Conversation, Turn


def conversation(*turns: tuple[str, str], source: str = "a.jsonl line 1") -> Conversation:
    return Conversation(tuple(Turn(role, text) for role, text in turns), source)


QUESTION = ("user", "이름이 뭐야?")
ANSWER = ("assistant", "나는 봇이야.")


def test_a_role_is_system_user_or_assistant() -> None:
    assert [Turn(role, "a").role for role in ("system", "user", "assistant")] == [
        "system", "user", "assistant",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="'narrator'"):
        Turn("narrator", "a")


@pytest.mark.parametrize(
    ("turns", "has_reply"),
    [
        ([QUESTION, ANSWER], True),
        ([("system", "짧게"), QUESTION, ANSWER], True),
        ([ANSWER, QUESTION, ANSWER], True),
        ([QUESTION], False),
        ([ANSWER], False),
        ([ANSWER, QUESTION], False),
        ([("system", "짧게"), ANSWER], False),
        ([], False),
    ],
)
def test_a_reply_answers_a_user(turns: list[tuple[str, str]], has_reply: bool) -> None:
    assert conversation(*turns).has_reply is has_reply


def test_a_turn_that_is_not_learned_is_no_reply() -> None:
    whole = conversation(QUESTION, ANSWER, QUESTION, ANSWER)
    turns = list(whole.turns)
    turns[1] = replace(turns[1], is_learned=False)
    part = replace(whole, turns=tuple(turns))
    assert (len(whole.replies), len(part.replies), part.has_reply) == (2, 1, True)
    turns[3] = replace(turns[3], is_learned=False)
    assert not replace(whole, turns=tuple(turns)).has_reply


def test_equal_content_has_equal_digests_wherever_it_stands() -> None:
    one = conversation(QUESTION, ANSWER)
    other = conversation(QUESTION, (ANSWER[0], ANSWER[1] + " \n"), source="b.jsonl line 9")
    named = replace(one, turns=(replace(one.turns[0], name="민수"), one.turns[1]))
    assert one.content == other.content == named.content
    assert one.digest == other.digest == named.digest


@pytest.mark.parametrize(
    "other",
    [
        conversation(QUESTION),
        conversation(("system", QUESTION[1]), ANSWER),
        conversation(("user", QUESTION[1] + ANSWER[1])),
        conversation(QUESTION, ("assistant", " " + ANSWER[1])),
        conversation(ANSWER, QUESTION),
    ],
)
def test_different_content_has_different_digests(other: Conversation) -> None:
    assert conversation(QUESTION, ANSWER).digest != other.digest


def test_lone_surrogates_have_a_digest() -> None:
    assert conversation(("user", "\ud800"), ANSWER).digest != conversation(QUESTION, ANSWER).digest


def test_characters_are_counted_per_conversation_and_per_reply() -> None:
    one = conversation(("system", "12345"), QUESTION, ANSWER)
    assert one.n_reply_characters == len(ANSWER[1])
    assert one.n_characters == 5 + len(QUESTION[1]) + len(ANSWER[1])
