"""Made-up chats of two people, as WhatsApp exports them; the same for the same seed.

유나 has a recognizable style: each of her messages ends with one of ENDINGS, she writes in small
letters without a full stop, and often sends two messages in a row. 민수 asks, in whole sentences.
What she answers depends on what he asks, so that a model can learn it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime, timedelta

ASKS, ANSWERS = "민수", "유나"
ENDINGS = ("ㅋㅋ", "~!", "ㅎㅎ")
START = datetime(2024, 1, 31, 21, 5, 33)
TOPICS = {  # what is asked -> what is answered
    "점심 먹었어요?": ("응 김밥 먹었어", "아직 안 먹었어"),
    "어디에 있어요?": ("나 지금 도서관이야", "집에 가는 중이야"),
    "내일 시간 있어요?": ("내일은 좀 바빠", "오후에는 괜찮아"),
    "영화 볼까요?": ("좋아 무서운 건 싫어", "나는 다 좋아"),
    "숙제 다 했어요?": ("거의 다 했어", "아직 시작도 못 했어"),
    "날씨가 어때요?": ("여기는 비 와", "하늘이 맑아"),
    "뭐 하고 있어요?": ("책 읽고 있어", "고양이랑 놀고 있어"),
    "Did you call Anna?": ("not yet", "she did not answer"),
}
SECOND = ("너는?", "왜?", "나중에 말해 줄게")
STYLES = {  # name -> how the head of a message is written
    "ios": "[{0:%d.%m.%y}, {0:%H:%M:%S}] {1}: {2}",
    "android": "{0:%d/%m/%Y}, {0:%H:%M} - {1}: {2}",
    "us": "{0.month}/{0.day}/{0:%y}, {3}:{0:%M}\u202f{0:%p} - {1}: {2}",
    "korean": "{0.year}년 {0.month}월 {0.day}일 {4} {3}:{0:%M} - {1}: {2}",
    "kakaotalk": "{0.year}년 {0.month}월 {0.day}일 {4} {3}:{0:%M}, {1} : {2}",
}


def made_up_messages(n_messages: int = 2000, seed: int = 0) -> Iterator[tuple[datetime, str, str]]:
    """Time, name and text of each message."""
    generator = random.Random(seed)
    time = START
    count = 0
    while count < n_messages:
        question = generator.choice(list(TOPICS))
        replies = [generator.choice(TOPICS[question])]
        if generator.random() < 0.4:
            replies.append(generator.choice(SECOND))
        said = [(ASKS, question)]
        said += [(ANSWERS, f"{reply} {generator.choice(ENDINGS)}") for reply in replies]
        for name, text in said[: n_messages - count]:
            yield time, name, text
            time += timedelta(seconds=generator.randrange(5, 600))
        count += len(said)
        if generator.random() < 0.15:
            time += timedelta(hours=generator.randrange(9, 30))


def whatsapp_export(n_messages: int = 2000, seed: int = 0, style: str = "ios") -> str:
    """A .txt file with `n_messages` messages, in one of STYLES."""
    lines = [line(style, *message) for message in made_up_messages(n_messages, seed)]
    return "\n".join(lines) + "\n"


def line(style: str, time: datetime, name: str, text: str) -> str:
    """One message."""
    half = "오후" if time.hour >= 12 else "오전"
    return STYLES[style].format(time, name, text, (time.hour + 11) % 12 + 1, half)
