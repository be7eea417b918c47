"""The slash command /compare: replies with one seed and several values of a setting."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from simplellm.app.commands.command import Command, Shown
from simplellm.app.commands.helpers import context_of, require_message
from simplellm.app.commands.settings import SETTING_NAMES
from simplellm.app.results import Columns
from simplellm.app.session import Session
from simplellm.app.shading import ABOUT_INVALID
from simplellm.config.did_you_mean import did_you_mean
from simplellm.config.sampling import SamplingParams
from simplellm.config.setting import show
from simplellm.errors import SettingError
from simplellm.inference.batch import ReplyBatch
from simplellm.inference.beams import reply_to
from simplellm.inference.reply import Reply, random_seed

MOST_VALUES = 8
NUMBER = re.compile(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?", re.IGNORECASE | re.ASCII)
USAGE = "/compare temperature 0.2 0.8 1.4; /compare top-k 1 10 50 TEXT; /compare 0.2 0.8"


@dataclass(frozen=True)
class Comparison:
    """A setting, its values, and the text that the replies continue."""

    name: str
    values: Sequence[Any]
    text: str = ""


def _compare(session: Session, text: str) -> Shown:
    """Replies with one seed, side by side. Ctrl-C ends them early."""
    comparison = parse(text, session.params.temperature)
    require_message(session, comparison.text)
    name = comparison.name
    seed = random_seed() if session.params.seed is None else session.params.seed
    base = replace(session.params, seed=seed, num_beams=1)
    settings = [replace(base, **{name: value}) for value in comparison.values]
    replies, ending = _replies(session, session.ids_before_reply(comparison.text), settings)
    n_tokens = max(len(reply.new_ids) for reply in replies)
    about_seed = "" if name == "seed" else f", seed {seed}"
    context = context_of(session, comparison.text)
    invalid = f"; {ABOUT_INVALID}" * any("\ufffd" in reply.text for reply in replies)
    return Columns(
        tuple(f"{name} {show(value)}" for value in comparison.values),
        tuple(reply.text for reply in replies),
        f"{n_tokens} tokens{about_seed}{ending}{invalid}",
        title=f"Replies to \u201c{context}\u201d" if context else "Replies",
    )


def _replies(
    session: Session, ids: Sequence[int], settings: Sequence[SamplingParams]
) -> tuple[Sequence[Reply], str]:
    """The replies, and `, interrupted` after Ctrl-C. Sampled ones are decoded as one batch."""
    replies: Sequence[Reply]
    sampler = session.sampler
    try:
        if any(params.num_beams > 1 for params in settings):
            replies = [reply_to(sampler, ids, params) for params in settings]
            for reply in replies:
                for _ in reply:
                    pass
        else:
            batch = ReplyBatch(sampler, ids, settings)
            replies = batch.replies
            for _ in batch:
                pass
    except KeyboardInterrupt:
        return replies, ", interrupted"
    return replies, ""


# ---------------------------------------------------------------- the argument


def parse(argument: str, temperature: float) -> Comparison:
    """What to compare: a setting and its values, temperatures alone, or only a text.

    SettingError for wrong values, for fewer than two, and for a setting that does not exist.
    """
    words = [(match[0], match.end()) for match in re.finditer(r"\S+", argument)]
    numbers = _leading_numbers([word for word, _ in words])
    if numbers >= 2:
        return _of("temperature", words[:numbers], argument)
    first = words[0][0] if words else ""
    name = SETTING_NAMES.get(first.replace("-", "_").lower())
    if name is None or len(words) < 2:
        _refuse_unknown(first, [word for word, _ in words[1:]])
        return Comparison("temperature", temperatures(temperature), argument)
    if name == "stop":
        return _stops(argument, words[0][1], temperature)
    numbers = _leading_numbers([word for word, _ in words[1:]])
    if not numbers and "-" not in first and "_" not in first:
        return Comparison("temperature", temperatures(temperature), argument)  # a usual word
    return _of(name, words[1 : max(numbers, 1) + 1], argument)


def _of(name: str, words: Sequence[tuple[str, int]], argument: str) -> Comparison:
    """A comparison of these values, each with the place in `argument` where it ends."""
    setting = SamplingParams.setting(name)
    values = [setting.parse(word) for word, _ in words]
    if not 2 <= len(values) <= MOST_VALUES:
        raise SettingError(
            f"compare takes 2 to {MOST_VALUES} values of {name}, got {len(values)}", fix=USAGE
        )
    return Comparison(name, values, argument[words[-1][1] :].lstrip())


def _stops(argument: str, start: int, temperature: float) -> Comparison:
    """`stop "." "!"`: texts are in quotes, because any word may also begin a prompt."""
    setting = SamplingParams.setting("stop")
    rest = argument[start:].strip()
    if not rest.startswith(("'", '"')):
        return Comparison("temperature", temperatures(temperature), argument)
    try:
        texts = shlex.split(rest)
    except ValueError as error:
        raise SettingError(f"stop texts: {error}", fix='/compare stop "." "!"') from error
    if not 2 <= len(texts) <= MOST_VALUES:
        raise SettingError(
            f"compare takes 2 to {MOST_VALUES} values of stop, got {len(texts)}",
            fix='/compare stop "." "!"',
        )
    return Comparison("stop", [setting.parse(text) for text in texts])


def _leading_numbers(words: Sequence[str]) -> int:
    for number, word in enumerate(words):
        if not NUMBER.fullmatch(word):
            return number
    return len(words)


def _refuse_unknown(first: str, rest: Sequence[str]) -> None:
    """SettingError for one word before several numbers: a setting with a typing mistake."""
    if len(rest) >= 2 and _leading_numbers(rest) == len(rest) and not NUMBER.fullmatch(first):
        fix = did_you_mean(first, [*SETTING_NAMES, *SamplingParams.names()], otherwise=USAGE)
        raise SettingError(f"no setting is called {first!r}", fix=fix)


def temperatures(current: float) -> Sequence[float]:
    """The current temperature and two others within the allowed range, in ascending order."""
    highest = SamplingParams.setting("temperature").maximum or current
    if current < 0.1:
        return current, 0.5, 1.0
    if current * 1.5 > highest:
        return round(current / 4, 2), round(current / 2, 2), current
    return round(current / 2, 2), current, round(current * 1.5, 2)


COMPARE_COMMANDS = (
    Command(
        "compare", "[setting values] [text]",
        "show replies with one seed and several values of a setting; without values: three "
        "temperatures", _compare, values=tuple(SamplingParams.names()), takes_prompt=True,
        draws=True,
    ),
)  # fmt: skip
