"""Chats exported by WhatsApp: the styles of phones and languages, and what is dropped."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from data.made_up_chats import ANSWERS, ASKS, STYLES, line, made_up_messages, whatsapp_export
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reading_files import detected, read

from simplellm.data.conversations.chat_dates import parse_stamp, seconds_of
from simplellm.data.conversations.options import DEFAULT_GAP_SECONDS

HEADS = {  # how two messages begin, one minute apart
    "iOS, German": ("[31.01.24, 21:05:33] ", "[31.01.24, 21:06:33] "),
    "iOS, ISO": ("[2024-01-31, 21:05:33] ", "[2024-01-31, 21:06:33] "),
    "iOS, US": ("[1/31/24, 9:05:33\u202fPM] ", "[1/31/24, 9:06:33\u202fPM] "),
    "iOS, Korean": ("[2024. 1. 31. 오후 9:05:33] ", "[2024. 1. 31. 오후 9:06:33] "),
    "iOS, Japanese": ("[2024/01/31 21:05:33] ", "[2024/01/31 21:06:33] "),
    "iOS, Arabic": ("[٣١\u200f/١\u200f/٢٠٢٤، ٩:٠٥:٣٣ م] ", "[٣١\u200f/١\u200f/٢٠٢٤، ٩:٠٦:٣٣ م] "),
    "iOS, marked": ("\u200e[31.01.24, 21:05:33] ", "[31.01.24, 21:06:33] "),
    "Android": ("31/01/2024, 21:05 - ", "31/01/2024, 21:06 - "),
    "Android, US": ("1/31/24, 9:05\u202fPM - ", "1/31/24, 9:06 PM - "),
    "Android, India": ("31/01/24, 9:05 pm - ", "31/01/24, 9:06 pm - "),
    "Android, German": ("31.01.24, 21:05 - ", "31.01.24, 21:06 - "),
    "Android, Spanish": ("31/1/24, 9:05 p.\u00a0m. - ", "31/1/24, 9:06 p.\u00a0m. - "),
    "Android, Korean": ("2024년 1월 31일 오후 9:05 - ", "2024년 1월 31일 오후 9:06 - "),
    "Android, Chinese": ("2024/1/31 下午9:05 - ", "2024/1/31 下午9:06 - "),
    "Android, Bulgarian": ("31.01.24 г., 21:05 ч. - ", "31.01.24 г., 21:06 ч. - "),
    "Android, Finnish": ("31.1.2024 klo 21.05 - ", "31.1.2024 klo 21.06 - "),
    "Android, French": ("31/01/2024 à 21:05 - ", "31/01/2024 à 21:06 - "),
    "Android, Hungarian": ("2024. 01. 31. 21:05 - ", "2024. 01. 31. 21:06 - "),
    "Android, Indonesian": ("31/01/24 21.05 - ", "31/01/24 21.06 - "),
    "Android, Dutch": ("31-01-2024 21:05 - ", "31-01-2024 21:06 - "),
}


@pytest.mark.parametrize("style", HEADS)
def test_the_dates_of_all_phones_are_read(tmp_path: Path, style: str) -> None:
    first, second = HEADS[style]
    content = f"{first}민수: 안녕\n{second}유나: 응: 왜?\n"
    assert detected(tmp_path, content, "a.txt") == "whatsapp"
    result = read(tmp_path, content, "a.txt", me="유나")
    assert result.turns == [[("user", "안녕"), ("assistant", "응: 왜?")]]
    assert [turn.name for turn in result.conversations[0].turns] == ["민수", "유나"]
    later = content.replace("24", "25").replace("٢٤", "٢٥")
    apart = read(tmp_path, content + later, "a.txt", me="유나")
    assert len(apart.summary.speakers) == 2 and apart.summary.conversations == 2, "a year later"


def test_a_message_may_have_many_lines(tmp_path: Path) -> None:
    content = "31/01/2024, 21:05 - 민수: 하나\n둘: 셋\n\n  넷\n31/01/2024, 21:06 - 유나: 응\n"
    result = read(tmp_path, content, "a.txt", me="유나")
    assert result.turns == [[("user", "하나\n둘: 셋\n\n  넷"), ("assistant", "응")]]


MEDIA = [
    "<Media omitted>", "<Medien ausgeschlossen>", "<Multimedia omitido>", "<Médias omis>",
    "<미디어 파일 제외됨>", "\u200e이미지 생략됨", "\u200eimage omitted", "image omitted",
    "\u200eBild weggelassen", "\u200e<attached: 00000012-PHOTO-2024-01-31.jpg>",
    "IMG-20240131-WA0001.jpg (file attached)", "\u200eIMG-20240131-WA0001.jpg (파일 첨부됨)",
    "보고서 1.pdf • \u200e3 pages \u200edocument omitted", "null",
]  # fmt: skip


@pytest.mark.parametrize("text", MEDIA)
def test_media_are_dropped_and_their_captions_kept(tmp_path: Path, text: str) -> None:
    chat = "[31.01.24, 21:05:33] 민수: 안녕\n[31.01.24, 21:06:33] 유나: 응\n"
    result = read(tmp_path, f"{chat}[31.01.24, 21:07:33] 유나: {text}\n", "a.txt", me="유나")
    assert result.turns == [[("user", "안녕"), ("assistant", "응")]]
    assert result.dropped == {"media without text": 1}
    caption = f"{chat}[31.01.24, 21:07:33] 유나: {text}\n이거 봐\n둘째 줄\n"
    result = read(tmp_path, caption, "a.txt", me="유나")
    assert result.turns == [[("user", "안녕"), ("assistant", "응\n이거 봐\n둘째 줄")]]


@pytest.mark.parametrize(
    "text",
    ["<3", "image omitted? 진짜?", "아래에 <Media omitted> 라고 나와", "a.txt (초안)", "null값"],
)
def test_texts_that_only_look_like_media_stay(tmp_path: Path, text: str) -> None:
    chat = "[31.01.24, 21:05:33] 민수: 안녕\n[31.01.24, 21:06:33] 유나: "
    assert read(tmp_path, chat + text, "a.txt", me="유나").turns[0][1] == ("assistant", text)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("31/01/2024, 21:04 - Messages and calls are end-to-end encrypted. Tap to learn more.",
         "messages of the program"),
        ("31/01/2024, 21:04 - 민수 created group “책: 모임”", "messages of the program"),
        ("31/01/2024, 21:04 - 민수님이 유나님을 추가했습니다", "messages of the program"),
        ("31/01/2024, 21:04 - 민수: \u200eMessages and calls are end-to-end encrypted. No one "
         "outside of this chat can read them.", "messages of the program"),
        ("31/01/2024, 21:04 - 민수: This message was deleted", "deleted messages"),
        ("31/01/2024, 21:04 - 유나: You deleted this message.", "deleted messages"),
        ("31/01/2024, 21:04 - 유나: 삭제된 메시지입니다.", "deleted messages"),
        ("31/01/2024, 21:04 - 유나: ", "empty turns"),
        ("31/01/2024, 21:04 - 유나:", "empty turns"),
        ("WhatsApp Chat with 민수", "lines before the first message"),
    ],
)  # fmt: skip
def test_what_nobody_said_is_dropped_and_counted(tmp_path: Path, line: str, reason: str) -> None:
    chat = "31/01/2024, 21:05 - 민수: 안녕\n31/01/2024, 21:06 - 유나: 응\n"
    result = read(tmp_path, f"{line}\n{chat}", "a.txt", me="유나")
    assert result.turns == [[("user", "안녕"), ("assistant", "응")]]
    assert result.dropped == {reason: 1}
    assert f"left out: {reason} (1)" in result.notices[1]


def test_the_mark_of_an_edited_message_is_removed(tmp_path: Path) -> None:
    content = (
        "[31.01.24, 21:05:33] 민수: 안녕 \u200e<This message was edited>\n"
        "[31.01.24, 21:06:33] 유나: 응 <This message was edited>\n"
    )
    assert read(tmp_path, content, "a.txt", me="유나").turns == [
        [("user", "안녕"), ("assistant", "응")]
    ]


@pytest.mark.parametrize(
    "name",
    ["~\u202f유나", "\u200e유나", "\u202a+82 10-1234-5678\u202c", "김 유나 🌱", "유나 (회사)"],
)
def test_names_are_read_without_marks(tmp_path: Path, name: str) -> None:
    content = f"[31.01.24, 21:05:33] 민수: 안녕\n[31.01.24, 21:06:33] {name}: 응\n"
    plain = name.strip("~\u202f\u200e\u202a\u202c").replace("\xa0", " ")
    for me in (name, plain):
        result = read(tmp_path, content, "a.txt", me=me)
        assert result.conversations[0].turns[1].name == plain


@pytest.mark.parametrize(
    ("dates", "n_days"),
    [
        (["01/02/2024", "02/02/2024", "13/02/2024"], 12),
        (["01/02/2024", "02/02/2024", "02/13/2024"], 42),
        (["01/02/24", "02/02/24", "03/02/24"], 2),
        (["01/02/24", "01/03/24", "01/04/24"], 2),
        (["01/31/24", "02/01/24"], 1),
        (["31/12/23", "01/01/24"], 1),
        (["2023-12-31", "2024-01-01"], 1),
        (["24. 1. 31.", "24. 2. 1."], 1),
        (["2567/01/31", "2567/02/01"], 1),
        (["31.04.24", "01.05.24"], 0),
    ],
)
def test_the_order_of_day_and_month_is_found(dates: list[str], n_days: int) -> None:
    stamps = [parse_stamp(f"{date}, 21:05") for date in dates]
    times = seconds_of([stamp for stamp in stamps if stamp])
    assert len(times) == len(dates) and times[-1] - times[0] == n_days * 86400


@pytest.mark.parametrize(
    ("text", "hours"),
    [("오전 12:00", 0), ("오전 9:00", 9), ("오후 12:00", 12), ("오후 9:00", 21), ("12:00 AM", 0),
     ("12:00 PM", 12), ("9:00\u202fpm", 21), ("9:00 a. m.", 9), ("21:00", 21), ("24:00", 24)],
)  # fmt: skip
def test_hours_of_the_morning_and_the_afternoon(text: str, hours: int) -> None:
    stamp = parse_stamp(f"2024. 1. 31. {text}")
    assert stamp is not None and stamp.seconds == hours * 3600


@pytest.mark.parametrize(
    "text", ["", "1/2", "2024-01-31", "2024-01-31, 25:00", "2024-01-31, 21:60", "21:05", "1" * 1000,
             "2024-01-31 21:05:33,123", "31/01/2024, 21:05 x", "a/b/c, d:e"],
)  # fmt: skip
def test_other_texts_are_no_dates(text: str) -> None:
    assert parse_stamp(text) is None


@pytest.mark.parametrize(
    ("style", "size"), [("ios", 2000)] + [(style, 200) for style in STYLES if style != "ios"]
)
def test_a_made_up_export_is_read(tmp_path: Path, style: str, size: int) -> None:
    said = list(made_up_messages(size, seed=3))
    result = read(tmp_path, whatsapp_export(size, 3, style), "a.txt", me=ANSWERS)
    counts = {name: sum(one[1] == name for one in said) for name in (ASKS, ANSWERS)}
    assert dict(result.summary.speakers) == counts and sum(counts.values()) == size
    gaps = [(later[0] - earlier[0]).total_seconds() for earlier, later in pairwise(said)]
    n_without_reply = sum(n for reason, n in result.dropped.items() if "conversations" in reason)
    n_found = result.summary.conversations + n_without_reply
    assert n_found == 1 + sum(gap > DEFAULT_GAP_SECONDS for gap in gaps)


def test_the_made_up_export_is_the_same_for_the_same_seed() -> None:
    assert whatsapp_export(50, 1) == whatsapp_export(50, 1) != whatsapp_export(50, 2)


texts = st.lists(
    st.text(st.characters(exclude_categories=("Cs", "Cc", "Cf", "Zl", "Zp")), max_size=12).map(
        lambda text: f"{text.strip()}."
    ),
    min_size=1,
    max_size=3,
).map("\n".join)


@given(st.lists(texts, min_size=2, max_size=6), st.sampled_from(list(STYLES)))
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_written_is_read_back(tmp_path: Path, said: list[str], style: str) -> None:
    times = [time for time, _, _ in made_up_messages(len(said))]
    names = [(ASKS, ANSWERS)[number % 2] for number in range(len(said))]
    lines = map(line, [style] * len(said), [times[0]] * len(said), names, said)
    (conversation,) = read(tmp_path, "\n".join(lines), "a.txt", me=ANSWERS).conversations
    assert [turn.text for turn in conversation.turns] == said[: len(said) // 2 * 2]
