"""Chats of people: whose messages are the replies, silence, and more than two people."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from conftest import examples
from data.made_up_chats import ANSWERS, ASKS, whatsapp_export
from hypothesis import given, settings
from hypothesis import strategies as st
from reading_files import read

from simplellm.data.conversations.chat_export import Message, clean_name, split_at_silence
from simplellm.data.conversations.options import DEFAULT_GAP_SECONDS, parse_gap
from simplellm.errors import SettingError, TextError

HOUR = 3600


def chat(*messages: tuple[str, str, str]) -> str:
    return "".join(f"31/01/2024, {time} - {name}: {text}\n" for time, name, text in messages)


TWO = chat(("21:05", "민수", "안녕"), ("21:06", "Yuna Kim", "응"), ("21:07", "Yuna Kim", "왜?"))


def test_the_messages_of_me_are_the_replies(tmp_path: Path) -> None:
    content = chat(("21:05", "민수", "안녕"), ("21:06", "유나", "응"), ("21:07", "민수", "ㅋㅋ"))
    assert read(tmp_path, content, "a.txt", me="유나").turns == [
        [("user", "안녕"), ("assistant", "응")]
    ]
    assert read(tmp_path, content, "a.txt", me="민수").turns == [
        [("assistant", "안녕"), ("user", "응"), ("assistant", "ㅋㅋ")]
    ]


def test_messages_of_one_person_in_a_row_are_one_turn(tmp_path: Path) -> None:
    assert read(tmp_path, TWO, "a.txt", me="Yuna Kim").turns == [
        [("user", "안녕"), ("assistant", "응\n왜?")]
    ]


def test_without_me_the_error_lists_the_people_with_their_messages(tmp_path: Path) -> None:
    with pytest.raises(SettingError) as caught:
        read(tmp_path, TWO, "a.txt")
    assert caught.value.exit_code == 2
    assert str(caught.value).endswith("are the replies? Speakers: Yuna Kim (2), 민수 (1)")
    assert '--me "Yuna Kim"' in caught.value.fix


def test_an_unknown_me_is_an_error_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(SettingError) as caught:
        read(tmp_path, TWO, "a.txt", me="Yuna Kin")
    assert "nobody in" in str(caught.value) and "Yuna Kim (2), 민수 (1)" in str(caught.value)
    assert "did you mean --me Yuna Kim?" in caught.value.fix


def test_the_error_shows_few_of_many_people(tmp_path: Path) -> None:
    content = chat(*[("21:05", f"사람 {number}", "안녕") for number in range(30)])
    with pytest.raises(SettingError, match="and 22 more"):
        read(tmp_path, content, "a.txt")


@pytest.mark.parametrize(
    "me",
    ["yuna kim", "YUNA KIM", " Yuna  Kim ", "\u200eYuna\u202fKim", "~ Yuna Kim"],
)
def test_the_name_of_me_is_found_in_other_spellings(tmp_path: Path, me: str) -> None:
    assert read(tmp_path, TWO, "a.txt", me=me).summary.replies == 1


def test_a_decomposed_name_is_the_same_name(tmp_path: Path) -> None:
    content = chat(("21:05", "Ann", "안녕"), ("21:06", unicodedata.normalize("NFD", "유나"), "응"))
    assert read(tmp_path, content, "a.txt", me="유나").summary.replies == 1
    assert clean_name(unicodedata.normalize("NFD", "유나")) == "유나"


def test_of_names_that_differ_in_letter_case_only_the_exact_one_is_meant(tmp_path: Path) -> None:
    content = chat(("21:05", "ann", "a"), ("21:06", "Ann", "b"), ("21:07", "ann", "c"))
    assert read(tmp_path, content, "a.txt", me="Ann").turns == [[("user", "a"), ("assistant", "b")]]
    with pytest.raises(SettingError, match="nobody in"):
        read(tmp_path, content, "a.txt", me="ANN")


def test_in_a_group_everybody_but_me_is_the_user(tmp_path: Path) -> None:
    content = chat(
        ("21:05", "민수", "안녕"), ("21:06", "지호", "안녕!"), ("21:07", "유나", "응"),
        ("21:08", "지호", "어디?"), ("21:09", "유나", "집"),
    )  # fmt: skip
    result = read(tmp_path, content, "a.txt", me="유나")
    assert result.turns == [
        [("user", "안녕\n안녕!"), ("assistant", "응"), ("user", "어디?"), ("assistant", "집")]
    ]
    names = [turn.name for turn in result.conversations[0].turns]
    assert names == [None, "유나", "지호", "유나"]
    assert dict(result.summary.speakers) == {"민수": 1, "지호": 2, "유나": 2}


def test_a_monologue_has_no_conversation(tmp_path: Path) -> None:
    content = chat(("21:05", "유나", "안녕"), ("21:06", "유나", "아무도 없네"))
    with pytest.raises(TextError) as caught:
        read(tmp_path, content, "a.txt", me="유나")
    assert "no conversation with a reply (format whatsapp): only 유나 writes" in str(caught.value)
    assert "conversations without a user (1)" in str(caught.value) and "--me" in caught.value.fix


def test_a_long_silence_begins_a_new_conversation(tmp_path: Path) -> None:
    content = chat(
        ("01:00", "민수", "가"), ("01:01", "유나", "나"), ("09:01", "민수", "다"),
        ("09:02", "유나", "라"), ("17:03", "민수", "마"), ("17:04", "유나", "바"),
    )  # fmt: skip
    assert [len(turns) for turns in read(tmp_path, content, "a.txt", me="유나").turns] == [4, 2]
    short = read(tmp_path, content, "a.txt", me="유나", gap_seconds=60.0)
    assert [len(turns) for turns in short.turns] == [2, 2, 2]
    long = read(tmp_path, content, "a.txt", me="유나", gap_seconds=86400.0)
    assert [len(turns) for turns in long.turns] == [6]


def test_a_clock_that_goes_back_begins_no_conversation(tmp_path: Path) -> None:
    content = chat(("21:05", "민수", "가"), ("03:00", "유나", "나"), ("03:01", "민수", "다"))
    assert read(tmp_path, content, "a.txt", me="유나").summary.conversations == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("8h", 8 * HOUR), ("30m", 1800), ("2d", 48 * HOUR), ("90s", 90), ("1.5h", 5400),
     (" 1H ", HOUR)],
)  # fmt: skip
def test_a_gap_is_a_time_with_a_unit(text: str, seconds: float) -> None:
    assert parse_gap(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "8", "h", "-8h", "8 hours", "0h", "0.0s", "nan", "٨h", "1e3s"]
)
def test_other_gaps_are_refused(text: str) -> None:
    with pytest.raises(SettingError, match="30m, 8h or 2d") as caught:
        parse_gap(text)
    assert caught.value.exit_code == 2


def test_the_default_gap_is_eight_hours() -> None:
    assert parse_gap("8h") == DEFAULT_GAP_SECONDS


@settings(max_examples=examples(25))
@given(st.lists(st.one_of(st.none(), st.floats(0, 1e6)), max_size=20), st.floats(1, 1e5))
def test_silences_keep_the_messages_and_are_longer_than_the_gap(
    times: list[float | None], gap: float
) -> None:
    messages = [Message("a", str(number), time, "") for number, time in enumerate(times)]
    groups = list(split_at_silence(messages, gap))
    assert [message for group in groups for message in group] == messages
    for earlier, later in zip(groups, groups[1:], strict=False):
        before = [one.seconds for group in groups[: groups.index(earlier) + 1] for one in group]
        last = [seconds for seconds in before if seconds is not None][-1]
        assert later[0].seconds is not None and later[0].seconds - last > gap


def test_the_style_of_each_person_can_be_learned(tmp_path: Path) -> None:
    content = whatsapp_export(200)
    replies = [
        turn.text
        for one in read(tmp_path, content, "a.txt", me=ANSWERS).conversations
        for turn in one.replies
    ]
    assert replies and all(text.endswith(("ㅋㅋ", "~!", "ㅎㅎ")) for text in replies)
    other = read(tmp_path, content, "a.txt", me=ASKS).conversations
    assert all(turn.text.endswith("?") for one in other for turn in one.replies)
