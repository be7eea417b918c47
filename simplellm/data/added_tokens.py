"""Added tokens of a tokenizer.json: texts that are one token wherever they stand.

Special tokens (the ends of turns, the end of a text) are found in rendered templates only; other
added tokens, such as `<think>` of Qwen3, are found in any text.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import regex


@dataclass(frozen=True)
class AddedToken:
    """One entry of "added_tokens", with the meaning that `tokenizers` gives to each field.

    normalized: found in the normalized text. single_word: not inside a word. lstrip, rstrip: takes
    the white space on this side.
    """

    content: str
    id: int
    special: bool
    normalized: bool = False
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False


@dataclass(frozen=True)
class AddedTokens:
    """Cuts a text at added tokens. normal_form: Unicode normal form of the rest, such as "NFC"."""

    tokens: tuple[AddedToken, ...] = ()
    normal_form: str = ""

    def cut(self, text: str, with_special: bool) -> Iterator[str | AddedToken]:
        """The text in normal form, cut at added tokens; special ones only `with_special`."""
        for part in _cut(text, self._finders(with_special, False)):
            if isinstance(part, AddedToken):
                yield part
            else:
                normal = self._normal(part)
                yield from _cut(normal, self._finders(with_special, True))

    def parts(self, text: str) -> Iterator[str]:
        """`text` cut around the tokens that are found before it is normalized."""
        finder = self._finders(True, False)
        begin = 0
        for match in finder.pattern.finditer(text) if finder else ():
            yield from filter(None, (text[begin : match.start()], match[0]))
            begin = match.end()
        if begin < len(text):
            yield text[begin:]

    @functools.cached_property
    def is_plain(self) -> bool:
        """Whether `cut` without special tokens returns any text as it is."""
        return not self.normal_form and all(token.special for token in self.tokens)

    def _normal(self, text: str) -> str:
        if not self.normal_form:
            return text
        return unicodedata.normalize(self.normal_form, text)  # type: ignore[arg-type]

    @functools.cached_property
    def _all_finders(self) -> dict[tuple[bool, bool], _Finder | None]:
        return {
            (with_special, normalized): _finder(
                token
                for token in self.tokens
                if token.normalized == normalized and (with_special or not token.special)
            )
            for with_special in (False, True)
            for normalized in (False, True)
        }

    def _finders(self, with_special: bool, normalized: bool) -> _Finder | None:
        return self._all_finders[with_special, normalized]


@dataclass(frozen=True)
class _Finder:
    pattern: regex.Pattern[str]
    tokens: tuple[AddedToken, ...]  # by group


def _finder(tokens: Iterable[AddedToken]) -> _Finder | None:
    """Finds the leftmost token, the longest of those that begin there."""
    ordered = tuple(sorted(tokens, key=lambda token: -len(token.content)))
    if not ordered:
        return None
    return _Finder(regex.compile("|".join(f"({_expression(token)})" for token in ordered)), ordered)


def _expression(token: AddedToken) -> str:
    expression = regex.escape(token.content)
    if token.single_word:
        expression = rf"(?<!\w){expression}(?!\w)"
    return r"\s*+" * token.lstrip + expression + r"\s*+" * token.rstrip


def _cut(text: str, finder: _Finder | None) -> Iterator[str | AddedToken]:
    begin = 0
    for match in finder.pattern.finditer(text) if finder else ():
        if match.start() > begin:
            yield text[begin : match.start()]
        assert finder and match.lastindex
        yield finder.tokens[match.lastindex - 1]
        begin = match.end()
    if begin < len(text):
        yield text[begin:]
