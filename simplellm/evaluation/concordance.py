"""Where the words of a text stand: a sorted index of everything that follows each word (a suffix array of words).

Whether a passage stands word for word in 50 MB of text, and where, is then a matter of a binary
search. A word is a run of letters, digits and marks; any other visible character is a word of its
own, and so is each character of the scripts that put no spaces between words. White space parts
words and is not compared.

Shapes: n words in a stretch of text, V different words.
"""

from __future__ import annotations

import bisect
import functools
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

DOCUMENT_MARK = (
    "\udcff"  # stands before each document; a lone surrogate is in no text that has a UTF-8 form
)
BREAK = 0  # the word nothing equals: a document mark, or a word that is not looked for
SHARD_WORDS = 1 << 23  # sorted at once: about 32 MB of English text, in 0.4 GB of memory
SORTED_WORDS = (
    1 << 12
)  # by so many words behind it: in texts that repeat themselves at length the sorting would not end
OVERLAP_WORDS = (
    1 << 14
)  # of two shards; a passage over their border is found whole up to this length
LONGEST_CUT_CHARACTERS = 1 << 22  # a text without white space is cut here, wherever that is
COMPARED_WORDS = 64  # at first
HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, near 2^64 / golden ratio (Knuth, 6.4)
HASH_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
WIDE_FROM = 0x2E80  # characters of Chinese, Japanese and Korean, and emoji, say about as much as two letters (guess)

SPACE, ALONE, LETTER, JOINED = range(4)
# Scripts that put no spaces between words: Thai and Lao, Burmese, Khmer, Han with kana and bopomofo, halfwidth kana.
UNSPACED = ((0xE00, 0xF00), (0x1000, 0x10A0), (0x1780, 0x1800), (0x2E80, 0x3130), (0x31A0, 0xA4D0), (0xF900, 0xFB00),
            (0xFF66, 0xFF9E), (0x1B000, 0x1B300))  # fmt: skip
FLAGS, SKIN_TONES, TAGS = (0x1F1E6, 0x1F200), (0x1F3FB, 0x1F400), (0xE0000, 0xE1000)
ZERO_WIDTH_JOINER = 0x200D
LISTED_CHARACTERS = 0x20000  # beyond: ideographs and tags


class Words(NamedTuple):
    """The words of a stretch of text."""

    starts: np.ndarray  # (n,) int64: characters before each
    ends: (
        np.ndarray
    )  # (n,) int64: the characters up to the end of each, white space behind it left out
    hashes: np.ndarray  # (n,) uint64, equal for equal words; BREAK for a document mark
    lines: (
        np.ndarray
    )  # int64: for each new line and each document mark, how many words stand before


def words_of(text: str) -> Words:
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    kinds = _kinds()[np.minimum(codes, LISTED_CHARACTERS)]
    kinds[(codes >= TAGS[0]) & (codes < TAGS[1])] = JOINED
    before = np.concatenate([np.zeros(1, np.uint8), kinds[:-1]])[: len(kinds)]
    continues = (before != SPACE) & ((kinds == JOINED) | ((kinds == LETTER) & (before >= LETTER)))
    if ZERO_WIDTH_JOINER in codes:
        continues[1:] |= codes[:-1] == ZERO_WIDTH_JOINER  # emoji made of several
    starts = np.flatnonzero((kinds != SPACE) & ~continues)
    spaces = np.flatnonzero(kinds == SPACE)
    nexts = np.append(starts[1:], len(codes))
    ends = np.minimum(nexts, np.append(spaces, len(codes))[np.searchsorted(spaces, starts)])
    is_mark = codes[starts] == ord(DOCUMENT_MARK)
    hashes = np.where(is_mark, np.uint64(BREAK), _hashes(codes, kinds, starts, nexts))
    return Words(starts, ends, hashes, _lines(codes, starts, is_mark))


def _hashes(
    codes: np.ndarray, kinds: np.ndarray, starts: np.ndarray, nexts: np.ndarray
) -> np.ndarray:
    """Polynomials modulo 2^64 of the characters of each word: differences of one running sum, shifted to the same power."""
    powers = np.cumprod(np.full(len(codes), HASH_FACTOR))
    inverses = np.cumprod(np.full(len(codes), HASH_INVERSE))
    terms = (codes.astype(np.uint64) + np.uint64(1)) * powers * (kinds != SPACE)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms)])
    return (sums[nexts] - sums[starts]) * inverses[starts]


def _lines(codes: np.ndarray, starts: np.ndarray, is_mark: np.ndarray) -> np.ndarray:
    newlines = np.searchsorted(starts, np.flatnonzero(codes == 10))
    return np.sort(
        np.concatenate([newlines, np.flatnonzero(is_mark)])
    )  # a line that ends before a mark: equal, either way


@functools.lru_cache(maxsize=1)
def _kinds() -> np.ndarray:
    """What each character does to words; the last entry is for all that are not listed."""
    of_category = {"L": LETTER, "N": LETTER, "M": JOINED, "Z": SPACE}
    kinds = np.fromiter(
        (
            of_category.get(unicodedata.category(chr(code))[0], ALONE)
            for code in range(LISTED_CHARACTERS + 1)
        ),
        np.uint8,
    )
    for first, stop in UNSPACED:
        kinds[first:stop][kinds[first:stop] == LETTER] = ALONE
    kinds[slice(*FLAGS)], kinds[slice(*SKIN_TONES)], kinds[LISTED_CHARACTERS] = (
        LETTER,
        JOINED,
        ALONE,
    )
    for code in range(LISTED_CHARACTERS):
        if chr(code).isspace():
            kinds[code] = SPACE
        elif unicodedata.category(chr(code)) == "Cf":
            kinds[code] = JOINED
    return kinds


# ---------------------------------------------------------------- the index


@dataclass(frozen=True)
class Shard:
    """A stretch of the text, sorted. Places are counted in words from the beginning of the whole text."""

    first: int  # place of its first word
    vocabulary: np.ndarray  # (V,) uint64: the hashes of its different words, ascending
    words: np.ndarray  # (n,) big-endian uint32, so that bytes compare as numbers do: place in the vocabulary + 1, or BREAK
    order: (
        np.ndarray
    )  # (n,) uint32: the words of the shard, sorted by themselves and all that follows
    lines: (
        np.ndarray
    )  # int64: places where a line or a document begins, without those of the shard before
    marks: np.ndarray  # int64: places of document marks, likewise

    def longest(self, needle: np.ndarray) -> int:
        """How many words of `needle` (numbers as in `words`, none BREAK), from its first on, stand here in this order."""
        width = COMPARED_WORDS
        while True:
            head = needle[:width]
            place = self._bisect(head, bisect.bisect_left)
            near = (
                self.words[start : start + len(head)]
                for start in self.order[max(place - 1, 0) : place + 1].tolist()
            )
            found = max((_common(head, words) for words in near), default=0)
            if found < width or width >= len(needle):
                return found
            width *= 4

    def first_place(self, needle: np.ndarray) -> int | None:
        """The first place where these words stand, of which SORTED_WORDS are looked at."""
        needle = needle[:SORTED_WORDS]
        low, high = (
            self._bisect(needle, bisect.bisect_left),
            self._bisect(needle, bisect.bisect_right),
        )
        return self.first + int(self.order[low:high].min()) if low < high else None

    def numbers(self, hashes: np.ndarray) -> np.ndarray:
        """What `words` would hold for words of these hashes; BREAK for those that are not here."""
        return _numbers(self.vocabulary, hashes)

    def _bisect(self, needle: np.ndarray, bisect_side: Callable[..., int]) -> int:
        width = len(needle)
        return bisect_side(
            self.order,
            needle.tobytes(),
            key=lambda start: self.words[start : start + width].tobytes(),
        )


def build(
    texts: Iterable[str], sought: np.ndarray | None = None, shortest: int = 0
) -> Iterator[Shard]:
    """The text (in pieces of any length, DOCUMENT_MARK before each document) as shards, one at a time in memory.

    With `sought` (ascending hashes) only stretches of `shortest` characters or more, made of those words alone, are
    kept: enough to find what is made of them, and a small part of a large text. Places count kept words then.
    """
    hashes: list[np.ndarray] = []
    lines: list[np.ndarray] = []
    marks: list[np.ndarray] = []
    first = place = 0
    for words in _stretches(texts):
        kept = words.hashes if sought is None else _only(words, sought, shortest)
        hashes.append(kept)
        lines.append(words.lines + place)
        marks.append(np.flatnonzero(kept == BREAK) + place)
        place += len(kept)
        if place - first >= SHARD_WORDS:
            whole = np.concatenate(hashes)
            yield _shard(whole, first, lines, marks)
            hashes, lines, marks = [whole[-OVERLAP_WORDS:].copy()], [], []
            first = place - OVERLAP_WORDS
    if lines:
        yield _shard(np.concatenate(hashes), first, lines, marks)


def _shard(
    hashes: np.ndarray, first: int, lines: list[np.ndarray], marks: list[np.ndarray]
) -> Shard:
    vocabulary, numbers = _vocabulary(hashes)
    order = _sorted(numbers, len(vocabulary))
    return Shard(
        first,
        vocabulary,
        numbers.astype(">u4"),
        order,
        np.concatenate(lines),
        np.concatenate(marks),
    )


def _vocabulary(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different hashes, ascending, without BREAK, and for each of `hashes` its place there + 1 (uint32)."""
    by_hash = np.argsort(hashes)
    ascending = hashes[by_hash]
    is_new = np.diff(ascending, prepend=np.uint64(BREAK)) != 0
    numbers = np.empty(len(hashes), np.uint32)
    numbers[by_hash] = np.cumsum(is_new, dtype=np.uint32)
    return ascending[is_new], numbers


def _numbers(vocabulary: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    places = np.searchsorted(vocabulary, hashes)
    is_known = places < len(vocabulary)
    is_known[is_known] = vocabulary[places[is_known]] == hashes[is_known]
    return np.where(is_known, places + 1, BREAK).astype(">u4")


def _sorted(numbers: np.ndarray, n_different: int) -> np.ndarray:
    """Places of `numbers` (n,) sorted by the numbers from there on: as many as fit 64 bits at first, then twice as many
    each time, among those still equal (Larsson and Sadakane 1999)."""
    keys, compared = _packed(numbers, max(n_different.bit_length(), 1))
    order, ranks = np.arange(len(numbers), dtype=np.uint32), np.empty(len(numbers), np.uint32)
    places = order.copy()  # in `order`, of those that equal another so far
    while len(places) and compared < 2 * SORTED_WORDS:
        ascending = np.argsort(keys)
        starts, keys = order[places][ascending], keys[ascending]
        is_first = np.ones(len(keys), bool)  # of its equals
        np.not_equal(keys[1:], keys[:-1], out=is_first[1:])
        order[places] = starts
        ranks[starts] = places[
            np.maximum.accumulate(np.where(is_first, np.arange(len(keys), dtype=np.uint32), 0))
        ]
        places = places[~(is_first & np.append(is_first[1:], True))]
        starts = order[places]
        keys = ranks[starts].astype(np.uint64) << np.uint64(32) | _ranks_behind(
            ranks, starts, compared
        )
        compared *= 2
    return order


def _packed(numbers: np.ndarray, bits: int) -> tuple[np.ndarray, int]:
    """For each of `numbers` (n,), of so many bits, a uint64 of it and as many behind it as fit, and how many these are."""
    keys, compared = np.zeros(len(numbers), np.uint64), 64 // bits
    for i in range(compared):
        keys <<= np.uint64(bits)
        keys[: max(len(keys) - i, 0)] |= numbers[i:]
    return keys, compared


def _ranks_behind(ranks: np.ndarray, starts: np.ndarray, distance: int) -> np.ndarray:
    """The rank of what stands `distance` behind each of `starts`, from 1 on; 0 behind the end."""
    behind = starts.astype(np.int64) + distance
    return np.where(
        behind < len(ranks),
        ranks[np.minimum(behind, len(ranks) - 1)].astype(np.uint64) + np.uint64(1),
        0,
    )


def _only(words: Words, sought: np.ndarray, shortest: int) -> np.ndarray:
    """The hashes without stretches of other words and stretches too short, a BREAK in their place.

    A stretch at either end may go on beyond it, and is kept.
    """
    n = len(words.hashes)
    is_sought = _numbers(sought, words.hashes) != BREAK
    edges = np.flatnonzero(np.diff(is_sought, prepend=False, append=False))
    begins, ends = edges[::2], edges[1::2]
    is_long = (
        (words.ends[ends - 1] - words.starts[begins] >= shortest) | (begins == 0) | (ends == n)
    )
    steps = np.zeros(n + 1, np.int8)
    steps[begins[is_long]] += 1
    steps[ends[is_long]] -= 1
    is_kept = np.cumsum(steps, dtype=np.int8).astype(bool)[:n]
    hashes = np.where(is_kept, words.hashes, np.uint64(BREAK))
    return hashes[is_kept | np.diff(is_kept, prepend=True)]  # one BREAK behind each stretch


def _stretches(texts: Iterable[str]) -> Iterator[Words]:
    """The words of a text in pieces, none of them cut in two."""
    rest = ""
    for text in texts:
        rest += text
        cut = (
            max(map(rest.rfind, " \n" + DOCUMENT_MARK))
            if len(rest) < LONGEST_CUT_CHARACTERS
            else len(rest)
        )
        if cut > 0:
            yield words_of(rest[:cut])
            rest = rest[cut:]
    if rest:
        yield words_of(rest)


def _common(left: np.ndarray, right: np.ndarray) -> int:
    """How many numbers at their beginning are the same."""
    n = min(len(left), len(right))
    differ = np.flatnonzero(left[:n] != right[:n])
    return int(differ[0]) if len(differ) else n
