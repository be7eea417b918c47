"""The format `transcript`: `Name: text`, with empty lines between conversations.

    User: Hello
    Bot: Hi!
    How can I help you?

    User: What is your name?
    Bot: I have none.

A line without a name continues the turn above it. Where most blocks of lines have one turn only,
single empty lines stand between turns, and two or more, or a line of dashes, between conversations.

The replies are those of `--me`. Without it they are those of the usual names of bots (BOT_NAMES);
or, of two speakers, of the one that is not called as users are (USER_NAMES). Otherwise reading
fails and lists the speakers. The names in SYSTEM_NAMES are system messages.

A word before a colon is a speaker if it is such a name, the one of `--me`, or begins at least
MIN_SHARE of all turns; other lines with a colon continue a turn. A text counts as a transcript
without `--format` only if it begins with a speaker, and a user and a bot by their usual names, or
the person of `--me`, take part: a play with names before its lines stays a text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from simplellm.data.conversations.chat_export import (
    clean_name,
    named_speaker,
    replying_speaker,
    visible,
)
from simplellm.data.conversations.conversation import ASSISTANT, SYSTEM, USER, Turn
from simplellm.data.conversations.format import Dropped, Format, Sample
from simplellm.data.conversations.found import Found
from simplellm.data.conversations.options import ReadOptions
from simplellm.data.source import Source, numbered_lines

USER_NAMES = frozenset((
    "user", "human", "person", "customer", "client", "me", "i", "you", "prompt", "question", "q",
    "input", "visitor", "guest", "student", "사용자", "유저", "사람", "고객", "손님", "나", "질문",
    "문", "ユーザー", "用户", "用戶", "问", "問",
))  # fmt: skip
BOT_NAMES = frozenset((
    "assistant", "bot", "chatbot", "ai", "gpt", "chatgpt", "claude", "gemini", "model", "agent",
    "robot", "response", "answer", "a", "reply", "output", "completion", "support", "봇", "챗봇",
    "어시스턴트", "인공지능", "상담원", "모델", "답변", "대답", "답", "로봇", "アシスタント",
    "ボット", "助手", "机器人", "機器人", "答",
))  # fmt: skip
SYSTEM_NAMES = frozenset(("system", "시스템", "システム", "系统", "系統"))
AMBIGUOUS = {"a": "q", "q": "a"}  # names of roles only beside the other one
MIN_SHARE = 0.05  # of the turns, for names that are not known (guess)
MIN_SPEAKER_SHARE = 0.2  # of the lines of a sample that begin a turn (guess)
MAX_SINGLE = 0.5  # share of blocks of one turn, up to which empty lines end conversations (guess)
RULE_GAP = 2  # empty lines that end a conversation in any case; a line of dashes counts as many
SAID = re.compile(  # also **Name:** text, and the wide colon of Chinese, Japanese and Korean
    r"[*_]{0,2}(?P<name>[^\W\d_][^:：*]{0,39}?)[*_]{0,2} ?(?::[*_]{0,2}(?=\s|$)|：[*_]{0,2})"
    r"\s*(?P<text>.*)"
)
RULE = re.compile(r"[-=*_#~]{3,}|<\|endoftext\|>")  # a line between conversations
BEFORE_FIRST = "lines before the first name"


class Line(NamedTuple):
    """A line. name: who begins to speak; None in lines that may not begin a turn."""

    number: int
    text: str  # without the name
    name: str | None
    whole: str


class Said(NamedTuple):
    """A turn: number of its first line, speaker, lines of its text, empty lines before it."""

    number: int
    name: str
    lines: list[str]
    gap: int


def fits(sample: Sample) -> float:
    lines = [_parse(number, text) for number, text in sample.lines]
    lines = [line for line in lines if not RULE.fullmatch(line.whole.strip())]
    counts = Counter(line.name for line in lines if line.name)
    known = _known(counts)
    with_me = sample.me is not None and named_speaker(counts, sample.me) is not None
    with_both = any(map(_is_user, known)) and any(map(_is_bot, known))
    speakers = _speakers(counts, sample.me)
    is_begun = bool(lines) and lines[0].name in speakers
    n_said = sum(line.name in speakers for line in lines)
    is_dense = n_said >= MIN_SPEAKER_SHARE * len(lines)
    return float(is_begun and is_dense and (with_me or with_both))


def read(source: Source, options: ReadOptions, dropped: Dropped) -> Iterator[Found]:
    lines = [_parse(number, text) for number, text in numbered_lines(source.decoded())]
    speakers = _speakers(Counter(line.name for line in lines if line.name), options.me)
    said_turns = list(_turns(lines, speakers, dropped))
    counts = Counter(said.name for said in said_turns)
    roles = _roles(source.name, counts, options.me) if counts else {}
    for conversation in _conversations(said_turns):
        turns = [
            Turn(roles[said.name], visible("\n".join(said.lines)), said.name)
            for said in conversation
        ]
        yield Found(f"line {conversation[0].number}", turns)


def _parse(number: int, text: str) -> Line:
    match = SAID.fullmatch(visible(text))
    if match is None:
        return Line(number, text.rstrip(), None, text.rstrip())
    return Line(number, match["text"], clean_name(match["name"]), text.rstrip())


def _speakers(counts: Counter[str], me: str | None) -> set[str]:
    """The names that begin turns."""
    known = _known(counts)
    named = named_speaker(counts, me) if me is not None else None
    users = any(_is_user(name) for name in known if name != named)
    if users and (named is not None or any(map(_is_bot, known))):
        return known | ({named} if named is not None else set())
    least = MIN_SHARE * counts.total()
    return known | {name for name, count in counts.items() if count >= least or name == named}


def _known(counts: Mapping[str, int]) -> set[str]:
    """The usual names of users, bots and the system."""
    folded = {name.casefold() for name in counts}
    return {
        name
        for name in counts
        if AMBIGUOUS.get(name.casefold(), "") in folded | {""}
        and (_is_user(name) or _is_bot(name) or _is_system(name))
    }


def _is_user(name: str) -> bool:
    return name.casefold() in USER_NAMES


def _is_bot(name: str) -> bool:
    return name.casefold() in BOT_NAMES


def _is_system(name: str) -> bool:
    return name.casefold() in SYSTEM_NAMES


def _roles(file: str, counts: Counter[str], me: str | None) -> dict[str, str]:
    """The role of each speaker; SettingError where the names do not tell."""
    people = [name for name in counts if not _is_system(name)]
    if me is not None:
        bots = [replying_speaker(file, counts, me)]
    else:
        known = _known(counts)
        bots = [name for name in people if name in known and _is_bot(name)]
        others = [name for name in people if not _is_user(name)]
        if not bots and len(people) == 2 and len(others) == 1:
            bots = others
        if not bots or len(bots) == len(people):
            bots = [replying_speaker(file, counts, None)]
    roles = dict.fromkeys(people, USER) | dict.fromkeys(set(counts) - set(people), SYSTEM)
    return roles | dict.fromkeys(bots, ASSISTANT)


def _turns(lines: Iterable[Line], speakers: set[str], dropped: Dropped) -> Iterator[Said]:
    """The turns in order."""
    said: Said | None = None
    between: list[str] = []  # empty lines and rules since the last line of the turn
    last = 0
    for line in lines:
        between += [""] * (line.number - last - 1)
        last = line.number
        if RULE.fullmatch(line.whole.strip()):
            between.append(line.whole)
        elif line.name in speakers:
            if said:
                yield said
            said = Said(line.number, str(line.name), [line.text], _gap(between))
            between = []
        elif said is None:
            dropped[BEFORE_FIRST] += 1
        else:
            said.lines.extend([*between, line.whole])
            between = []
    if said:
        yield said


def _gap(between: list[str]) -> int:
    return RULE_GAP if any(between) else len(between)


def _conversations(turns: list[Said]) -> Iterator[list[Said]]:
    """The turns of each conversation."""
    blocks = _split(turns, 1)
    n_single = sum(len(block) == 1 for block in blocks)
    yield from blocks if n_single <= MAX_SINGLE * len(blocks) else _split(turns, RULE_GAP)


def _split(turns: list[Said], gap: int) -> list[list[Said]]:
    """The turns in groups; before each but the first there are at least `gap` empty lines."""
    groups: list[list[Said]] = []
    for said in turns:
        if said.gap >= gap or not groups:
            groups.append([])
        groups[-1].append(said)
    return groups


FORMAT = Format(
    "transcript", "`Name: text`, with empty lines between conversations", fits, read, uses_me=True
)
