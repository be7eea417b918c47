"""The format `kakaotalk`: a chat exported by KakaoTalk as .txt.

    2024년 1월 31일 오후 9:05, 민수 : 집이야?     phones

    --------------- 2024년 1월 31일 수요일 ---------------
    [민수] [오후 9:05] 집이야?                   computers

A message may have many lines. Dropped are the title, lines with a date alone, messages of the
program itself, photos and other media, and deleted messages. Whose messages are the replies, `--me`
says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from simplellm.data.conversations import chat_export
from simplellm.data.conversations.chat_dates import parse_stamp, plain
from simplellm.data.conversations.chat_export import visible
from simplellm.data.conversations.dated_lines import (
    DELETED,
    MEDIA,
    NOTICES,
    blocks,
    is_log,
    messages,
    parse_head,
)
from simplellm.data.conversations.format import Dropped, Format, Sample
from simplellm.data.conversations.found import Found
from simplellm.data.conversations.options import ReadOptions
from simplellm.data.source import Source, numbered_lines

MIN_SHARE = 0.05  # of the lines that begin a message (guess)

DAY = re.compile(r"-{5,} (?P<day>[^-].{5,40}) -{5,}")  # on computers, before the messages of a day
KOREAN_DAY = re.compile(r"(\d{4}년 \d{1,2}월 \d{1,2}일)( [가-힣]요일)?")
ENGLISH_DAY = re.compile(r"(?:\w+day, )?(?P<month>\w+) (?P<day>\d{1,2}), (?P<year>\d{4})")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
SAID = re.compile(r"\[(?P<name>[^\n]{1,60}?)\] \[(?P<time>[^\]\n]{4,12})\] ?(?P<text>.*)")
TITLE = re.compile(
    r".{1,80} ?카카오톡 대화|저장한 날짜 : .*|.{0,20}KakaoTalk Chats.*|Date Saved : .*"
)
MEDIA_TEXTS = re.compile(
    r"사진(?: \d+장)?|동영상|이모티콘|음성 ?메시지|연락처|(?:파일|지도|연락처|샵검색|선물|일정): .*"
    r"|(?:보이스톡|페이스톡|라이브톡|그룹콜).{0,30}|투표가? .{0,20}"
    r"|Photo|\d+ photos|Video|Emoticons?|Voice [Mm]essage|File: .*"
)
DELETED_TEXTS = re.compile(r"삭제된 메시지입니다\.?|This message was deleted\.?")
ENTRY = re.compile(
    r".{1,60}님(?:이|을|를|과|에게).{0,60}(?:들어왔|나갔|초대했|내보냈|되었|했)습니다\.?"
    r"|.{1,60} (?:joined|left) this chatroom\.|.{1,60} invited .{1,80}\.?"
    r"|채팅방 관리자가 메시지를 가렸습니다\.?"
)


def fits(sample: Sample) -> float:
    lines = [line for _, line in sample.lines]
    heads = [head for line in lines if (head := parse_head(line)) and head.separator == ","]
    if sum(head.speaker is not None for head in heads) >= MIN_SHARE * len(lines) > 0:
        return float(not is_log(heads))
    n_said = sum(SAID.fullmatch(line) is not None for line in lines)
    return float(n_said >= MIN_SHARE * len(lines) > 0 and any(map(_day, lines)))


def read(source: Source, options: ReadOptions, dropped: Dropped) -> Iterator[Found]:
    lines = _with_dates(numbered_lines(source.decoded()), dropped)
    found = messages(blocks(lines), _text, dropped)
    yield from chat_export.conversations(source.name, found, options)


def _with_dates(lines: Iterable[tuple[int, str]], dropped: Dropped) -> Iterator[tuple[int, str]]:
    """The lines as phones write them: each message begins with its date.

    Lines that are no part of a message are dropped.
    """
    day = ""
    begun = False  # whether a message stands above
    for number, line in lines:
        said = SAID.fullmatch(line)
        stated = _day(line)
        if said and parse_stamp(f"{day} {said['time']}"):
            yield number, f"{day} {said['time']}, {said['name']} : {said['text']}"
            begun = True
        elif stated:
            day = stated
        elif (not begun and TITLE.fullmatch(line.strip())) or (day and ENTRY.fullmatch(line)):
            dropped[NOTICES] += 1
        elif not _is_date_alone(line):
            begun = True
            yield number, line


def _day(line: str) -> str:
    """The day that a line of dashes states, in Korean; empty for other lines."""
    match = DAY.fullmatch(line.strip())
    if match is None:
        return ""
    if korean := KOREAN_DAY.fullmatch(match["day"]):
        return korean[1]
    english = ENGLISH_DAY.fullmatch(match["day"])
    if english is None or english["month"][:3].lower() not in MONTHS:
        return ""
    month = MONTHS.index(english["month"][:3].lower()) + 1
    return f"{english['year']}년 {month}월 {english['day']}일"


def _is_date_alone(line: str) -> bool:
    text = plain(line)
    return bool(KOREAN_DAY.fullmatch(text)) or parse_stamp(text) is not None


def _text(lines: list[str]) -> tuple[str, str]:
    """The text of a message, and the reason to drop it if there is one."""
    text = visible("\n".join(lines))
    if DELETED_TEXTS.fullmatch(text):
        return "", DELETED
    return text, MEDIA if MEDIA_TEXTS.fullmatch(text) else ""


FORMAT = Format(
    "kakaotalk", "a chat exported by KakaoTalk as .txt; needs --me", fits, read, uses_me=True
)
