"""Character encodings: their standard names, byte order marks, and a guess by the bytes."""

from __future__ import annotations

import codecs
import unicodedata
from collections import Counter

from simplellm.errors import TextError

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16, whose mark is a prefix of it
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
SAMPLE_BYTES = 1 << 16
UTF_16_COMMON_SHARE = 0.05  # of the characters: ASCII, or in COMMON (guess)
MIN_UTF_16_CHARACTERS = 8  # fewer say nothing
STRANGE = ("Cc", "Cn", "Co", "Cs")  # categories of characters that text hardly has
STRANGE_SHARE = 0.01  # (guess)
UTF_8_SHARE = 0.9  # of those that decode as UTF-8, from which a text is damaged UTF-8 (guess)
MIN_FIT = 0.5  # of the expected share, from which a guess is good (guess)
COMMON = {  # encoding -> the most common characters outside ASCII, and their share of those (about)
    "cp949": ("이다는의가을에고하지나은를한로그사아기리도서어있", 0.25),
    "shift_jis": ("のにはをたがでてとしれさいるなもかっこ", 0.45),
    "euc-jp": ("のにはをたがでてとしれさいるなもかっこ", 0.45),
    "gb18030": ("的一是不了在人有我他这个们中来上大为和国说到", 0.15),
    "big5": ("的一是不了在人有我他這個們中來上大為和國說到", 0.15),
    "cp1251": ("оеаинтсрвлкмдпуязыь", 0.85),
    "koi8-r": ("оеаинтсрвлкмдпуязыь", 0.85),
    "cp1253": ("αοιετσνηυρπκμλςόίά", 0.8),
    "cp1250": ("ěščřžýáíéůąęłńśźżćóőű", 0.8),
    "cp1252": ("éèàäöüßñçáíóúêâôîœ’‘“”–—…£€©°ïëãõåæø", 0.9),
}


def standard_name(name: str) -> str:
    """The standard name of a text encoding (`utf16` is `utf-16`); TextError if there is none."""
    try:
        info = codecs.lookup(name)
        is_text = info._is_text_encoding
        codecs.getincrementaldecoder(name)("strict").decode(b"", final=False)
    except (LookupError, ValueError, TypeError):
        is_text = False
    if not is_text:
        raise TextError(
            f"{name!r} is not a text encoding", fix="use utf-8, utf-16, cp949, cp1252, ..."
        )
    return info.name


def has_nul_bytes(encoding: str) -> bool:
    """Whether text in this encoding (standard name) contains NUL bytes."""
    return encoding.startswith(("utf-16", "utf-32"))


def likely_encoding(data: bytes) -> str | None:
    """A guess for bytes that do not decode as expected; None if nothing fits well.

    "utf-8" means UTF-8 with a few damaged bytes.
    """
    sample = data[:SAMPLE_BYTES]
    if b"\0" in sample:
        return _utf_16_order(sample)
    if _share(sample, "utf-8", None) > UTF_8_SHARE:
        return "utf-8"
    fits = {
        encoding: _share(sample, encoding, common) / expected
        for encoding, (common, expected) in COMMON.items()
    }
    best = max(fits, key=lambda encoding: fits[encoding])
    return best if fits[best] > MIN_FIT else None


def _utf_16_order(sample: bytes) -> str | None:
    """The byte order in which the bytes read as text: common characters, nothing unassigned."""
    common = {"\t", "\r", "\n"}.union(*(characters for characters, _ in COMMON.values()))
    for encoding in ("utf-16-le", "utf-16-be"):
        text = sample[: len(sample) // 2 * 2].decode(encoding, "replace")
        if len(text) < MIN_UTF_16_CHARACTERS:
            continue
        n_common = sum(" " <= character <= "~" or character in common for character in text)
        n_strange = sum(
            unicodedata.category(character) in STRANGE and character not in "\t\r\n"
            for character in text
        )
        if n_common >= UTF_16_COMMON_SHARE * len(text) and n_strange <= STRANGE_SHARE * len(text):
            return encoding
    return None


def _share(sample: bytes, encoding: str, common: str | None) -> float:
    """Share of `common` among the characters outside ASCII; None: of all that decode."""
    text = codecs.getincrementaldecoder(encoding)("replace").decode(sample, final=False)
    counts = Counter(character for character in text if character > "\x7f")
    total = sum(counts.values())
    if not total:
        return 0.0
    if common is None:
        return 1 - counts["\ufffd"] / total
    return sum(counts[character] for character in common) / total
