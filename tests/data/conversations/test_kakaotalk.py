"""Chats exported by KakaoTalk, on phones and on computers."""

from __future__ import annotations

from pathlib import Path

import pytest
from reading_files import detected, read

PHONE = """홍길동 님과 카카오톡 대화
저장한 날짜 : 2024년 2월 2일 오후 9:05

2024년 1월 31일 오후 9:05
2024년 1월 31일 오후 9:05, 민수 : 안녕
둘째 줄: 진짜

셋째 줄
2024년 1월 31일 오후 9:06, 유나 : 응 : 왜?
2024년 1월 31일 오후 9:07, 홍길동님이 나갔습니다.
2024년 2월 2일 오전 9:07, 민수 : 일어났어?
2024년 2월 2일 오전 9:08, 유나 : 아직
"""
COMPUTER = """홍길동 님과 카카오톡 대화
저장한 날짜 : 2024-02-02 21:05:11

--------------- 2024년 1월 31일 수요일 ---------------
홍길동님이 지호님과 민수님을 초대했습니다.
[민수] [오후 9:05] 안녕
둘째 줄: 진짜

셋째 줄
[유나] [오후 9:06] 응 : 왜?
--------------- 2024년 2월 2일 금요일 ---------------
[민수] [오전 9:07] 일어났어?
[유나] [오전 9:08] 아직
"""
ENGLISH = """홍길동 님과 카카오톡 대화
Date Saved : 2024-02-02 21:05:11

--------------- Wednesday, January 31, 2024 ---------------
[민수] [9:05 PM] 안녕
둘째 줄: 진짜

셋째 줄
[유나] [9:06 PM] 응 : 왜?
--------------- Friday, February 2, 2024 ---------------
[민수] [9:07 AM] 일어났어?
[유나] [9:08 AM] 아직
"""
TURNS = [
    [("user", "안녕\n둘째 줄: 진짜\n\n셋째 줄"), ("assistant", "응 : 왜?")],
    [("user", "일어났어?"), ("assistant", "아직")],
]


@pytest.mark.parametrize(
    "content", [PHONE, COMPUTER, ENGLISH], ids=["phone", "computer", "english"]
)
def test_an_export_is_detected_and_read(tmp_path: Path, content: str) -> None:
    assert detected(tmp_path, content, "a.txt") == "kakaotalk"
    result = read(tmp_path, content.replace("\n", "\r\n").encode("utf-8-sig"), "a.txt", me="유나")
    assert result.turns == TURNS
    assert dict(result.summary.speakers) == {"민수": 2, "유나": 2}
    assert result.dropped == {"messages of the program": 2 if content == ENGLISH else 3}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("사진", "media without text"),
        ("사진 3장", "media without text"),
        ("동영상", "media without text"),
        ("이모티콘", "media without text"),
        ("파일: 보고서.pdf", "media without text"),
        ("보이스톡 해요", "media without text"),
        ("삭제된 메시지입니다.", "deleted messages"),
    ],
)
def test_media_and_deleted_messages_are_dropped(tmp_path: Path, text: str, reason: str) -> None:
    said = {
        "phone": f"2024년 2월 2일 오전 9:09, 유나 : {text}\n",
        "computer": f"[유나] [오전 9:09] {text}\n",
    }
    for content, line in ((PHONE, said["phone"]), (COMPUTER, said["computer"])):
        result = read(tmp_path, content + line, "a.txt", me="유나")
        assert result.turns == TURNS and result.dropped[reason] == 1


@pytest.mark.parametrize(
    "text", ["사진 보내 줘", "동영상 봤어?", "파일 어디 있어?", "[오후 9:05]에 봐"]
)
def test_texts_that_only_look_like_media_stay(tmp_path: Path, text: str) -> None:
    content = f"{COMPUTER}[민수] [오전 9:09] 뭐?\n[유나] [오전 9:10] {text}\n"
    assert read(tmp_path, content, "a.txt", me="유나").turns[1][-1] == ("assistant", text)


def test_the_place_of_a_conversation_is_its_line(tmp_path: Path) -> None:
    for content, lines in ((PHONE, (5, 11)), (COMPUTER, (6, 12))):
        sources = [one.source for one in read(tmp_path, content, "a.txt", me="유나").conversations]
        assert sources == [f"{tmp_path / 'a.txt'} line {number}" for number in lines]
