"""Words of a text as hashes, for the search for copied passages.

A word is a run of letters, digits and combining marks. Every other visible character is a word of
its own, and so is each letter of the scripts that do not put spaces between words. White space
separates words and is not compared.

Shapes: n words in a text.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

DOCUMENT_MARK = "\udcff"  # precedes each document; a lone surrogate, which valid text never has
BREAK = 0  # hash of a document mark, which equals no word
MAX_BUFFER_CHARACTERS = 1 << 22  # a text without white space is cut here, even inside a word
HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, near 2^64 / golden ratio (Knuth, TAOCP 6.4)
HASH_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))

SPACE, ALONE, LETTER, JOINED = range(4)  # separator, own word, part of a word, part of any word
# Scripts without spaces: Thai and Lao, Burmese, Khmer, Han with kana and bopomofo, halfwidth kana.
UNSPACED = (
    (0xE00, 0xF00),
    (0x1000, 0x10A0),
    (0x1780, 0x1800),
    (0x2E80, 0x3130),
    (0x31A0, 0xA4D0),
    (0xF900, 0xFB00),
    (0xFF66, 0xFF9E),
    (0x1B000, 0x1B300),
)
FLAGS = (0x1F1E6, 0x1F200)  # regional indicators
SKIN_TONES = (0x1F3FB, 0x1F400)
TAGS = (0xE0000, 0xE1000)
ZERO_WIDTH_JOINER = 0x200D
TABLE_CHARACTERS = 0x20000  # above are ideographs and tags


class Words(NamedTuple):
    """The words of a text."""

    starts: np.ndarray  # (n,) int64: first character of each
    ends: np.ndarray  # (n,) int64: end of each, without white space after it
    hashes: np.ndarray  # (n,) uint64: equal for equal words; BREAK for a document mark
    lines: np.ndarray  # int64: for each line end and document mark, the number of words before it


def words_of(text: str) -> Words:
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    kinds = _kinds()[np.minimum(codes, TABLE_CHARACTERS)]
    kinds[(codes >= TAGS[0]) & (codes < TAGS[1])] = JOINED
    before = np.concatenate([np.zeros(1, np.uint8), kinds[:-1]])[: len(kinds)]
    continues = (before != SPACE) & ((kinds == JOINED) | ((kinds == LETTER) & (before >= LETTER)))
    if ZERO_WIDTH_JOINER in codes:
        continues[1:] |= codes[:-1] == ZERO_WIDTH_JOINER  # emoji that consist of several
    starts = np.flatnonzero((kinds != SPACE) & ~continues)
    spaces = np.flatnonzero(kinds == SPACE)
    nexts = np.append(starts[1:], len(codes))
    ends = np.minimum(nexts, np.append(spaces, len(codes))[np.searchsorted(spaces, starts)])
    is_mark = codes[starts] == ord(DOCUMENT_MARK)
    hashes = np.where(is_mark, np.uint64(BREAK), _hashes(codes, kinds, starts, nexts))
    return Words(starts, ends, hashes, _lines(codes, starts, is_mark))


def words_of_chunks(chunks: Iterable[str]) -> Iterator[Words]:
    """The words of a text in chunks of any length; no word is cut at the end of a chunk."""
    rest = ""
    for chunk in chunks:
        rest += chunk
        is_full = len(rest) >= MAX_BUFFER_CHARACTERS
        cut = len(rest) if is_full else max(map(rest.rfind, " \n" + DOCUMENT_MARK))
        if cut > 0:
            yield words_of(rest[:cut])
            rest = rest[cut:]
    if rest:
        yield words_of(rest)


def _hashes(
    codes: np.ndarray, kinds: np.ndarray, starts: np.ndarray, nexts: np.ndarray
) -> np.ndarray:
    """Polynomial hashes modulo 2^64 of the characters of each word.

    The difference of two prefix sums is the hash times a power of HASH_FACTOR, which the
    multiplication by its inverse removes.
    """
    powers = np.cumprod(np.full(len(codes), HASH_FACTOR))
    inverses = np.cumprod(np.full(len(codes), HASH_INVERSE))
    terms = (codes.astype(np.uint64) + np.uint64(1)) * powers * (kinds != SPACE)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms)])
    return (sums[nexts] - sums[starts]) * inverses[starts]


def _lines(codes: np.ndarray, starts: np.ndarray, is_mark: np.ndarray) -> np.ndarray:
    newlines = np.searchsorted(starts, np.flatnonzero(codes == 10))
    return np.sort(np.concatenate([newlines, np.flatnonzero(is_mark)]))


@functools.lru_cache(maxsize=1)
def _kinds() -> np.ndarray:
    """SPACE, ALONE, LETTER or JOINED by character; the last entry is for all characters above."""
    of_category = {"L": LETTER, "N": LETTER, "M": JOINED, "Z": SPACE}
    kinds = np.fromiter(
        (
            of_category.get(unicodedata.category(chr(code))[0], ALONE)
            for code in range(TABLE_CHARACTERS + 1)
        ),
        np.uint8,
    )
    for first, stop in UNSPACED:
        kinds[first:stop][kinds[first:stop] == LETTER] = ALONE
    kinds[slice(*FLAGS)] = LETTER
    kinds[slice(*SKIN_TONES)] = JOINED
    kinds[TABLE_CHARACTERS] = ALONE
    for code in range(TABLE_CHARACTERS):
        if chr(code).isspace():
            kinds[code] = SPACE
        elif unicodedata.category(chr(code)) == "Cf":
            kinds[code] = JOINED
    return kinds
