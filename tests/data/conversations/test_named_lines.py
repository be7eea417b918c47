"""Plain transcripts: `Name: text`, continued lines, and empty lines between conversations."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reading_files import detected, read, read_as

from simplellm.errors import SettingError, TextError

ONE = [("user", "안녕"), ("assistant", "안녕하세요!")]
TWO = [("user", "뭐 해?"), ("assistant", "공부해요.")]


@pytest.mark.parametrize(
    ("user", "bot"),
    [("User", "Bot"), ("user", "assistant"), ("Human", "AI"), ("You", "ChatGPT"), ("Q", "A"),
     ("Question", "Answer"), ("사용자", "챗봇"), ("질문", "답변"), ("고객", "상담원"),
     ("Me", "Claude"), ("문", "답"), ("用户", "助手")],
)  # fmt: skip
def test_usual_names_tell_user_and_bot(tmp_path: Path, user: str, bot: str) -> None:
    assert is_read("{}: {}", user, bot, tmp_path)


@pytest.mark.parametrize(
    "form", ["{} : {}", "{}：{}", "{}： {}", "**{}:** {}", "**{}**: {}", "{}:\n{}", "{}:\t{}"]
)
def test_names_are_read_in_usual_forms(tmp_path: Path, form: str) -> None:
    assert is_read(form, "사용자", "봇", tmp_path)


def is_read(form: str, user: str, bot: str, folder: Path) -> bool:
    """Whether a transcript with these names is detected and read."""
    said = [form.format(user if role == "user" else bot, text) for role, text in [*ONE, *TWO]]
    content = "\n".join(said[:2]) + "\n\n" + "\n".join(said[2:]) + "\n"
    result = read(folder, content, "a.txt")
    names = {turn.name for one in result.conversations for turn in one.turns}
    is_detected = detected(folder, content, "a.txt") == "transcript"
    return is_detected and result.turns == [ONE, TWO] and names == {user, bot}


def test_the_names_of_the_system_are_system_messages(tmp_path: Path) -> None:
    content = "시스템: 짧게 답해.\nUser: 안녕\nBot: 안녕하세요!\n"
    assert read(tmp_path, content, "a.txt").turns == [[("system", "짧게 답해."), *ONE]]


def test_lines_without_a_name_continue_a_turn(tmp_path: Path) -> None:
    first = "User: 하나\n둘\n  셋: 넷\nhttps://a.kr: x\nBot: 다섯\n12:30\n\n여섯\n\n"
    content = f"{first}User: 일곱\nBot: 여덟"
    assert read(tmp_path, content, "a.txt").turns == [
        [("user", "하나\n둘\n  셋: 넷\nhttps://a.kr: x"), ("assistant", "다섯\n12:30\n\n여섯")],
        [("user", "일곱"), ("assistant", "여덟")],
    ]


def test_other_words_with_a_colon_are_no_speakers_beside_usual_names(tmp_path: Path) -> None:
    content = (
        "User: 요리법 줘\nBot: 자,\n재료: 물\n재료: 소금\n순서: 끓인다\n\nUser: 뭐 해?\nBot: 요리\n"
    )
    assert read(tmp_path, content, "a.txt").turns[0] == [
        ("user", "요리법 줘"), ("assistant", "자,\n재료: 물\n재료: 소금\n순서: 끓인다"),
    ]  # fmt: skip


@pytest.mark.parametrize("rule", ["\n\n\n", "\n---\n", "\n\n***\n\n", "\n<|endoftext|>\n"])
def test_single_empty_lines_may_stand_between_turns(tmp_path: Path, rule: str) -> None:
    content = "User: 안녕\n\nBot: 안녕하세요!" + rule + "User: 뭐 해?\n\nBot: 공부해요.\n"
    assert read(tmp_path, content, "a.txt").turns == [ONE, TWO]


def test_a_rule_inside_a_turn_belongs_to_it(tmp_path: Path) -> None:
    content = "User: 표 줘\nBot: 위\n---\n아래\n\n---\nUser: 뭐 해?\nBot: 공부해요.\n"
    assert read(tmp_path, content, "a.txt").turns == [
        [("user", "표 줘"), ("assistant", "위\n---\n아래")], TWO,
    ]  # fmt: skip


def test_what_stands_before_the_first_name_is_dropped(tmp_path: Path) -> None:
    content = "어느 날\n\nUser: 안녕\nBot: 안녕하세요!\n"
    result = read_as(tmp_path, "transcript", content)
    assert result.turns == [ONE] and result.dropped == {"lines before the first name": 1}


def test_me_says_who_replies(tmp_path: Path) -> None:
    content = "민수: 안녕\n유나: 안녕하세요!\n\n민수: 뭐 해?\n유나: 공부해요.\n"
    assert detected(tmp_path, content, "a.txt") is None
    assert detected(tmp_path, content, "a.txt", me="유나") == "transcript"
    assert read(tmp_path, content, "a.txt", me="유나").turns == [ONE, TWO]


def test_me_goes_before_usual_names(tmp_path: Path) -> None:
    content = "Bot: 안녕\nUser: 안녕하세요!\n\nBot: 뭐 해?\nUser: 공부해요.\n"
    assert read(tmp_path, content, "a.txt", me="user").turns == [ONE, TWO]


def test_without_a_usual_name_the_error_lists_the_speakers(tmp_path: Path) -> None:
    content = "민수: 안녕\n유나: 안녕하세요!\n유나: 응\n"
    with pytest.raises(SettingError) as caught:
        read_as(tmp_path, "transcript", content)
    assert "Speakers: 유나 (2), 민수 (1)" in str(caught.value) and "--me" in caught.value.fix
    with pytest.raises(SettingError, match="nobody in"):
        read_as(tmp_path, "transcript", content, me="지호")


@pytest.mark.parametrize(
    "content", ["Bot: 안녕\nAI: 응\n", "User: 안녕\nMe: 응\n", "User: 가\n민수: 나\n유나: 다\n"]
)
def test_names_that_do_not_tell_need_me(tmp_path: Path, content: str) -> None:
    with pytest.raises(SettingError, match="are the replies"):
        read_as(tmp_path, "transcript", content)


@pytest.mark.parametrize("names", [("User", "유나"), ("민수", "Bot")])
def test_one_usual_name_of_two_is_enough(tmp_path: Path, names: tuple[str, str]) -> None:
    content = "{0}: 안녕\n{1}: 안녕하세요!\n\n{0}: 뭐 해?\n{1}: 공부해요.\n".format(*names)
    assert read_as(tmp_path, "transcript", content).turns == [ONE, TWO]


def test_other_people_than_the_bot_are_users(tmp_path: Path) -> None:
    content = "민수: 안녕\n지호: 반가워\nBot: 안녕하세요!\n"
    assert read_as(tmp_path, "transcript", content).turns == [
        [("user", "안녕\n반가워"), ("assistant", "안녕하세요!")]
    ]


def test_a_text_without_names_is_no_transcript(tmp_path: Path) -> None:
    with pytest.raises(TextError, match="no conversation with a reply"):
        read_as(tmp_path, "transcript", "안녕\n반가워\n")


lines = st.lists(
    st.text(st.characters(exclude_categories=("Cs", "Cc", "Cf", "Zl", "Zp")), max_size=10).map(
        lambda text: f"<{text}>"
    ),
    min_size=1,
    max_size=3,
).map("\n".join)
pairs = st.lists(st.tuples(lines, lines), min_size=1, max_size=3)


@given(st.lists(pairs, min_size=1, max_size=3, unique_by=tuple))
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_written_is_read_back(
    tmp_path: Path, conversations: list[list[tuple[str, str]]]
) -> None:
    blocks = [
        "\n".join(f"사용자: {ask}\n봇: {answer}" for ask, answer in one) for one in conversations
    ]
    found = read_as(tmp_path, "transcript", "\n\n".join(blocks)).turns
    assert found == [
        [turn for ask, answer in one for turn in (("user", ask), ("assistant", answer))]
        for one in conversations
    ]
