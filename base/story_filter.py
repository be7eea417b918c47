"""Keeps the generated stories that can be used: whole, varied, and about their subject."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from base.clean import is_repetitive, words

FEWEST_WORDS = {"dialogue": 40}  # by kind
FEWEST = 60
REFUSAL = re.compile(
    r"\bas an ai\b|language model|\bi(?:'m| am) sorry, but i can|i cannot (?:write|provide|help)"
    r"|\bassistant\b|here(?:'s| is) (?:a|the|your) (?:story|letter|dialogue|poem|revised)"
    r"|\b(?:the word|word count|title:|the end of the story|in this (?:story|scene|letter))\b",
    re.IGNORECASE,
)
MARKUP = re.compile(r"[*#_\[\]<>{}|]|```|\d\.\s", re.MULTILINE)
SENTENCE_END = re.compile(r'[.!?]["”’]?(?=\s|$)')
# Mean per token, in nats, given by the writer: 5% of its stories are below, and few make sense.
LOWEST_LOG_PROBABILITY = -1.75
REPEATED_SENTENCE_WORDS = 5  # a sentence of so many words occurs once in a good story


def whole(text: str, ended: bool) -> str:
    """The text up to its last whole sentence."""
    ends = list(SENTENCE_END.finditer(text))
    if ended and re.search(r'[.!?]["”’]?$|,\s*\w+$', text):
        return text
    return text[: ends[-1].end()] if ends else ""


def problem(text: str, kind: str) -> str | None:
    """Why a story cannot be used."""
    found = words(text)
    sentences = [" ".join(words(s)) for s in re.split(r"[.!?]+|\n", text)]
    long = Counter(s for s in sentences if len(s.split()) >= REPEATED_SENTENCE_WORDS)
    if len(found) < FEWEST_WORDS.get(kind, FEWEST):
        return "short"
    if REFUSAL.search(text):
        return "about the request"
    if MARKUP.search(text) or not text.isprintable() and "\t" in text:
        return "markup"
    if is_repetitive(text) or (long and max(long.values()) > 1):
        return "repetition"
    if text.count('"') % 2:
        return "open quotation"
    return None


def good_stories(path: Path, dropped: Counter[str] | None = None) -> list[str]:
    """Usable stories of a file of stories.py in the order of their seeds, without duplicates."""
    rows = sorted(map(json.loads, path.read_text("utf-8").splitlines()), key=lambda r: r["seed"])
    return list(_good(rows, Counter() if dropped is None else dropped))


def _good(rows: Iterable[dict[str, Any]], dropped: Counter[str]) -> Iterable[str]:
    openings: set[str] = set()
    for row in rows:
        text = whole(str(row["text"]), bool(row["ended"])).strip()
        reason = problem(text, str(row["kind"]))
        if reason is None and float(row.get("log_probability", 0)) < LOWEST_LOG_PROBABILITY:
            reason = "improbable"
        opening = " ".join(words(text)[:16])
        if reason is None and opening in openings:
            reason = "duplicate"
        openings.add(opening)
        if reason:
            dropped[reason] += 1
        else:
            yield text
