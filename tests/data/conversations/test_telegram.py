"""`result.json` of Telegram: a chat, or all chats of an account."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from reading_files import detected, read

from simplellm.errors import SettingError, TextError


def message(number: int, name: str | None, text: object, **more: object) -> dict[str, object]:
    entry = {
        "id": number,
        "type": "message",
        "date": f"2024-01-31T21:{number:02}:33",
        "date_unixtime": str(1706735133 + 60 * number),
        "from": name,
        "from_id": f"user{name}",
        "text": text,
        "text_entities": [],
    }
    return entry | more


def chat(*messages: dict[str, object], name: str = "민수") -> dict[str, object]:
    return {"name": name, "type": "personal_chat", "id": 7, "messages": list(messages)}


ASK, ANSWER = message(1, "민수", "안녕"), message(2, "유나", "응")
TURNS = [[("user", "안녕"), ("assistant", "응")]]


@pytest.mark.parametrize("indent", [1, None])
def test_a_chat_is_detected_and_read(tmp_path: Path, indent: int | None) -> None:
    content = json.dumps(chat(ASK, ANSWER), ensure_ascii=False, indent=indent)
    assert detected(tmp_path, content, "result.json") == "telegram"
    result = read(tmp_path, content, "result.json", me="유나")
    assert result.turns == TURNS
    assert result.conversations[0].source == f"{tmp_path / 'result.json'} message 1"


def test_a_text_may_have_formatted_parts(tmp_path: Path) -> None:
    parts = [
        "이거 ",
        {"type": "bold", "text": "꼭"},
        " 봐: ",
        {"type": "link", "text": "https://a.kr"},
    ]
    content = json.dumps(chat(message(1, "민수", parts), ANSWER))
    assert read(tmp_path, content, "a.json", me="유나").turns[0][0][1] == "이거 꼭 봐: https://a.kr"


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"id": 9, "type": "service", "date": "2024-01-31T21:09:33", "actor": "민수",
          "action": "phone_call", "text": ""}, "messages of the program"),
        (message(9, "유나", "", photo="photos/1.jpg"), "media without text"),
        (message(9, "유나", "", media_type="sticker", file="a.webp"), "media without text"),
        (message(9, "유나", "", location_information={"latitude": 1}), "media without text"),
        (message(9, "유나", [], poll={"question": "?"}), "media without text"),
        (message(9, "유나", ""), "empty turns"),
        (message(9, "민수", "잘 자"), "turns after the last reply"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_first", [False, True])
def test_what_nobody_said_is_dropped_and_counted(
    tmp_path: Path, entry: dict[str, object], reason: str, is_first: bool
) -> None:
    if is_first and reason == "turns after the last reply":
        entry = message(9, "민수", " ")
        reason = "empty turns"
    order = [entry, ASK, ANSWER] if is_first else [ASK, ANSWER, entry]
    result = read(tmp_path, json.dumps(chat(*order)), "a.json", me="유나")
    assert result.turns == TURNS and result.dropped == {reason: 1}


def test_captions_of_media_are_kept(tmp_path: Path) -> None:
    content = json.dumps(chat(ASK, message(2, "유나", "이거 봐", photo="photos/1.jpg")))
    assert read(tmp_path, content, "a.json", me="유나").turns[0][1] == ("assistant", "이거 봐")


@pytest.mark.parametrize("has_unixtime", [True, False])
def test_a_long_silence_begins_a_new_conversation(tmp_path: Path, has_unixtime: bool) -> None:
    later = {"date": "2024-02-01T06:30:33", "date_unixtime": str(1706735133 + 9 * 3600 + 60)}
    entries = [
        ASK,
        ANSWER,
        message(3, "민수", "일어났어?") | later,
        message(4, "유나", "응") | later,
    ]
    if not has_unixtime:
        entries = [
            {key: value for key, value in one.items() if key != "date_unixtime"} for one in entries
        ]
    assert (
        read(tmp_path, json.dumps(chat(*entries)), "a.json", me="유나").summary.conversations == 2
    )


@pytest.mark.parametrize("wrong", [{"date_unixtime": "soon"}, {"date_unixtime": None}])
def test_a_message_without_a_time_begins_no_conversation(
    tmp_path: Path, wrong: dict[str, object]
) -> None:
    content = json.dumps(chat(ASK | wrong, ANSWER | wrong))
    assert read(tmp_path, content, "a.json", me="유나").turns == TURNS


def test_deleted_accounts_have_a_name(tmp_path: Path) -> None:
    content = json.dumps(chat(message(1, None, "안녕"), ANSWER))
    (conversation,) = read(tmp_path, content, "a.json", me="유나").conversations
    assert conversation.turns[0].name == "Deleted account"


def test_of_an_account_the_chats_with_me_are_read(tmp_path: Path) -> None:
    others = chat(message(1, "지호", "안녕"), message(2, "민수", "응"), name="모임")
    account = {"about": "", "chats": {"about": "", "list": [chat(ASK, ANSWER), others, chat()]}}
    content = json.dumps(account)
    assert detected(tmp_path, content, "result.json") == "telegram"
    result = read(tmp_path, content, "result.json", me="유나")
    assert result.turns == TURNS
    assert result.dropped == {"messages of chats without the person of --me": 2}
    with pytest.raises(SettingError, match=r"민수 \(2\), 유나 \(1\), 지호 \(1\)"):
        read(tmp_path, content, "result.json")


@pytest.mark.parametrize("content", ['{"messages": []}', "{}", "[3]", '{"chats": {"list": 3}}'])
def test_the_error_for_other_json_says_what_is_missing(tmp_path: Path, content: str) -> None:
    with pytest.raises(TextError) as caught:
        read(tmp_path, content, "a.json", me="유나", format="telegram")
    assert "no Telegram chat" in str(caught.value) and "result.json" in caught.value.fix
