"""Dates and times of chat exports, in the styles of all languages of the phones.

Whether 01/02/2024 is in January or in February is decided for the whole file: the order in which no
month is above 12, the fewest messages are earlier than the one before, and the chat is shortest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from itertools import pairwise
from typing import NamedTuple

from simplellm.data.conversations.chat_export import visible

AM = (
    "am", "a.m.", "a. m.", "오전", "上午", "午前", "凌晨", "早上", "清晨", "ص", "πμ", "π.μ.", "de.",
)  # fmt: skip
PM = (
    "pm", "p.m.", "p. m.", "오후", "下午", "午後", "中午", "晚上", "م", "μμ", "μ.μ.", "du.",
)  # fmt: skip
YEAR_FIRST = ("오전", "오후", "上午", "下午", "午前", "午後")  # languages that write the year first
HALF = "|".join(re.escape(word) for word in (*AM, *PM))
STAMP = re.compile(
    r"(\d{1,4})(?:[./-] ?|년 ?|年 ?)(\d{1,2})(?:[./-] ?|월 ?|月 ?)(\d{1,4})(?:\.|일|日| г\.)?"
    r"(?: ?[,،]| ?\([^)]{1,3}\))?(?: (?:um|at|às|a las|alle ore|alle|à|klo|kl\.|o|в))? ?"
    rf"(?P<before>{HALF})? ?(\d{{1,2}})[:.h](\d{{2}})(?:[:.](\d{{2}}))?"
    rf" ?(?P<after>{HALF})?(?: ?ч\.)?",
    re.IGNORECASE,
)
UNUSUAL_SPACE = re.compile(r"[^\S ]")
MAX_STAMP = 48  # characters
SHORT_YEARS = 2000  # `24` is 2024
SECONDS_PER_DAY = 86400
Day = tuple[int, int, int]  # three numbers as written
Order = tuple[int, int, int]  # positions of year, month and day among the three numbers
DAY_FIRST, MONTH_FIRST, YEAR_LEADS = (2, 1, 0), (2, 0, 1), (0, 1, 2)


class Stamp(NamedTuple):
    """A date whose order is not known yet, and the seconds since midnight."""

    numbers: Day
    seconds: int
    half: str  # the word for morning or afternoon, as written; empty with 24 hours


def parse_stamp(text: str) -> Stamp | None:
    """The date and the time that a text consists of; None if it is anything else."""
    if len(text) > MAX_STAMP:
        return None
    match = STAMP.fullmatch(plain(text))
    if match is None:
        return None
    first, second, third, before, hours, minutes, seconds, after = match.groups()
    half = before or after or ""
    hour, minute, second_of_minute = int(hours), int(minutes), int(seconds or 0)
    if hour > 24 or minute > 59 or second_of_minute > 60:
        return None
    if half:
        hour = hour % 12 + (12 if half.lower() in PM else 0)
    day = (int(first), int(second), int(third))
    return Stamp(day, hour * 3600 + minute * 60 + second_of_minute, half)


def plain(text: str) -> str:
    """A text without direction marks, and with ordinary spaces."""
    return UNUSUAL_SPACE.sub(" ", visible(text))


def seconds_of(stamps: Sequence[Stamp]) -> list[float]:
    """The time of each message, in seconds from a common start."""
    days = list({stamp.numbers for stamp in stamps})
    scales = [
        _times(stamps, {day: _start_of_day(day, order) for day in days})
        for order in _preferred(stamps)
        if all(_exists(day, order) for day in days)
    ]
    fallback = _times(stamps, {day: _start_of_day(day, DAY_FIRST) for day in days})
    return min(scales, key=_disorder, default=fallback)


def _times(stamps: Sequence[Stamp], start_of_day: Mapping[Day, float]) -> list[float]:
    return [start_of_day[stamp.numbers] + stamp.seconds for stamp in stamps]


def _disorder(times: Sequence[float]) -> tuple[int, float]:
    """How little sense an order of the dates makes."""
    backwards = sum(later < earlier for earlier, later in pairwise(times))
    return backwards, max(times, default=0) - min(times, default=0)


def _preferred(stamps: Sequence[Stamp]) -> list[Order]:
    """All orders, with the usual one first."""
    halves = {stamp.half for stamp in stamps}
    if halves & set(YEAR_FIRST):
        return [YEAR_LEADS, DAY_FIRST, MONTH_FIRST]
    if halves & {"AM", "PM"}:  # in capital letters: United States
        return [MONTH_FIRST, DAY_FIRST, YEAR_LEADS]
    return [DAY_FIRST, MONTH_FIRST, YEAR_LEADS]


def _exists(numbers: Day, order: Order) -> bool:
    year, month, day = (numbers[position] for position in order)
    return (year < 100 or year > 1000) and 1 <= month <= 12 and 1 <= day <= 31


def _start_of_day(numbers: Day, order: Order) -> float:
    """Seconds at midnight."""
    year, month, day = (numbers[position] for position in order)
    year += SHORT_YEARS if year < 100 else 0
    first = date(min(max(year, 1), 9000), min(max(month, 1), 12), 1)
    # Other calendars have months of other lengths: 31 is a valid day in each month.
    return float((first + timedelta(days=day - 1)).toordinal() * SECONDS_PER_DAY)
