"""Filters for documents: language, repetition, boilerplate, duplicates and benchmark overlap."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

SHARED_WORDS = 8  # a passage of so many words in common counts as an overlap
# Source code has common lines (licences, idioms), so a file is dropped only from this share on.
MOST_SHARED_CODE = 0.02
SHORTEST = 200  # characters of a document
BOILERPLATE = re.compile(
    r"copyright(?:ed by| holder| \(c\)| ©| \d)|©|all rights reserved|licensed under"
    r"|public licen[cs]e|warranty of|\bisbn\b|project gutenberg|저작권|라이선스|https?://\S+.*https?://",
    re.IGNORECASE,
)
WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def words(text: str) -> list[str]:
    """Words in small letters, without punctuation."""
    return WORD.findall(text.lower().replace("’", "'"))


def passages(text: str) -> Iterable[int]:
    """Hashes of all sequences of SHARED_WORDS words."""
    found = words(text)
    return (hash(tuple(found[i : i + SHARED_WORDS])) for i in range(len(found) - SHARED_WORDS + 1))


class Benchmarks:
    """Texts that the base must not have seen."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._names = {path.name: set(passages(path.read_text("utf-8"))) for path in paths}
        self._all = set().union(*self._names.values())

    def overlaps(self, paragraph: str) -> bool:
        return any(passage in self._all for passage in passages(paragraph))

    def share(self, text: str) -> float:
        """The share of the passages of `text` that are in a benchmark."""
        found = set(passages(text))
        return len(found & self._all) / max(len(found), 1)

    def report(self, texts: Iterable[str]) -> dict[str, int]:
        """The number of shared passages by benchmark."""
        counts = dict.fromkeys(self._names, 0)
        for text in texts:
            found = set(passages(text))
            for name, benchmark in self._names.items():
                counts[name] += len(found & benchmark)
        return counts


def in_language(text: str, language: str) -> bool:
    """Whether enough letters are of the script of `language`; prose has few other characters."""
    letters = sum(c.isalpha() for c in text)
    if language == "python":
        return True
    if language == "ko":
        return sum("가" <= c <= "힣" for c in text) > 0.4 * max(letters, 1)
    latin = sum(c.isascii() and (c.isalpha() or c == " ") for c in text)
    return latin > 0.8 * len(text)


def is_repetitive(text: str) -> bool:
    """Few different words, or one sequence of four words again and again."""
    found = words(text)
    if len(found) < 40:
        return False
    fours = Counter(zip(found, found[1:], found[2:], found[3:], strict=False))
    return len(set(found)) < 3 * len(found) ** 0.55 or max(fours.values()) > 3 + len(found) // 60


class Filter:
    """Keeps good paragraphs of documents and counts the reasons for dropping the others."""

    def __init__(self, benchmarks: Benchmarks) -> None:
        self.dropped: Counter[str] = Counter()  # characters by reason
        self._benchmarks = benchmarks
        self._seen: set[bytes] = set()

    def document(self, text: str, language: str) -> str | None:
        """The document without bad paragraphs, or None if too little is left."""
        if language == "python":
            return self._code(text)
        kept = [part for part in text.split("\n\n") if not self._drops(part, language)]
        clean = "\n\n".join(kept).strip()
        if len(clean) >= SHORTEST // (3 if language == "ko" else 1):
            return clean
        self.dropped["too short"] += len(clean)
        return None

    def _code(self, text: str) -> str | None:
        """A file of source code is kept or dropped as a whole."""
        reason = None if self._is_new(text) else "duplicate"
        if self._benchmarks.share(text) > MOST_SHARED_CODE:
            reason = "benchmark overlap"
        if reason:
            self.dropped[reason] += len(text)
        return None if reason else text

    def _drops(self, part: str, language: str) -> bool:
        reason = self._reason(part, language)
        if reason:
            self.dropped[reason] += len(part)
        return bool(reason)

    def _reason(self, part: str, language: str) -> str | None:
        if not in_language(part, language):
            return "language"
        if BOILERPLATE.search(part):
            return "boilerplate"
        if len(part) > 80 and is_repetitive(part) and language != "ko":
            return "repetition"
        if not self._is_new(part):
            return "duplicate"
        if self._benchmarks.overlaps(part):
            return "benchmark overlap"
        return None

    def _is_new(self, part: str) -> bool:
        key = hashlib.blake2b(" ".join(words(part)).encode(), digest_size=12).digest()
        is_new = key not in self._seen
        self._seen.add(key)
        return is_new
