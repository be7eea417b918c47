"""Conversations that the chat saved, as training data."""

from __future__ import annotations

from pathlib import Path

import pytest
from reading_files import detected, read

from simplellm.app.conversation import Conversation, Turn, save
from simplellm.errors import TextError

HEADER = {"simplellm": "conversation", "version": 1, "run": "checkpoints/bot"}


def line(number: int, prompt: str, reply: str, **more: object) -> dict[str, object]:
    facts = {"turn": number, "prompt": prompt, "reply": reply}
    return facts | {"stop_reason": "stop", "context": True} | more


FIRST, SECOND = line(1, "안녕?", "안녕하세요!"), line(2, "뭐 해?", "공부해요.")
PAIRS = [
    ("user", "안녕?"),
    ("assistant", "안녕하세요!"),
    ("user", "뭐 해?"),
    ("assistant", "공부해요."),
]


def test_a_file_that_the_chat_saved_is_detected_and_read(tmp_path: Path) -> None:
    turns = [
        Turn("안녕?", "안녕하세요!", "stop"),
        Turn("뭐 해?", "공부해요.", "stop", in_context=True),
    ]
    save(tmp_path / "a.jsonl", Conversation(turns), tmp_path)
    content = (tmp_path / "a.jsonl").read_bytes()
    assert detected(tmp_path, content) == "saved"
    assert read(tmp_path, content).turns == [PAIRS]


def test_a_chat_in_chat_mode_is_read_as_messages(tmp_path: Path) -> None:
    turns = [
        Turn("안녕?", "안녕하세요!", "end_of_text"),
        Turn("뭐 해?", "공부해", "interrupted", in_context=True),
        Turn("그래?", "네.", "end_of_text", in_context=True),
    ]
    save(tmp_path / "a.jsonl", Conversation(turns, True, "친절하게"), tmp_path)
    content = (tmp_path / "a.jsonl").read_bytes()
    assert detected(tmp_path, content) == "messages"
    (conversation,) = read(tmp_path, content).conversations
    assert [turn.text for turn in conversation.turns[:3]] == ["친절하게", "안녕?", "안녕하세요!"]
    assert [turn.text for turn in conversation.replies] == ["안녕하세요!", "네."]


def test_a_turn_without_the_earlier_ones_begins_a_conversation(tmp_path: Path) -> None:
    result = read(tmp_path, [HEADER, FIRST, SECOND | {"context": False}])
    assert result.turns == [PAIRS[:2], PAIRS[2:]]
    assert result.conversations[1].source.endswith("line 3")


def test_replaced_and_undone_turns_are_dropped(tmp_path: Path) -> None:
    again = line(2, "뭐 해?", "놀아요.")
    result = read(tmp_path, [HEADER, FIRST, SECOND, again])
    assert result.turns == [[*PAIRS[:3], ("assistant", "놀아요.")]]
    assert result.dropped == {"turns that were replaced or undone": 1}
    assert read(tmp_path, [HEADER, FIRST, SECOND, {"turns": 1}]).turns == [PAIRS[:2]]


@pytest.mark.parametrize("reason", ["interrupted", "length"])
def test_a_reply_that_was_cut_is_context_only(tmp_path: Path, reason: str) -> None:
    (conversation,) = read(
        tmp_path, [HEADER, FIRST | {"stop_reason": reason}, SECOND]
    ).conversations
    assert [turn.is_learned for turn in conversation.turns] == [True, False, True, True]


@pytest.mark.parametrize(
    "wrong", [{}, {"turn": 3, "prompt": "가", "reply": "나"}, {"turn": 2, "prompt": "가"},
              {"turns": 5}, {"turns": -1}, {"turn": 1, "turns": 9},
              {"turn": True, "prompt": "가", "reply": "나"}, [1]],
)  # fmt: skip
def test_the_error_for_a_wrong_line_has_its_number(tmp_path: Path, wrong: object) -> None:
    with pytest.raises(TextError, match=r"a\.jsonl line 3 is no line of a saved conversation"):
        read(tmp_path, [HEADER, FIRST, wrong])
    assert read(tmp_path, [HEADER, FIRST, wrong], share=0.5).turns == [PAIRS[:2]]
