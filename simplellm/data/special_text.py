"""Texts of special tokens in what people write: they stay text when a chat template is encoded.

A rendered template no longer tells its own `<|im_end|>` from one that a user typed. Before the
template is rendered, one character of each such text in a message is therefore replaced by a
stand-in, a lone surrogate, which no text contains. The length of the message stays the same. After
the rendered text was cut at its special tokens, the characters return and the words are encoded.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import regex

from simplellm.data.utf8 import encodable
from simplellm.errors import TokenizerError

StandIns = Mapping[int, str]  # code point of a lone surrogate -> the character that it stands for
NO_STAND_INS: StandIns = MappingProxyType({})
FIRST_STAND_IN = 0xD800
LAST_STAND_IN = 0xDFFE


@dataclass(frozen=True)
class SpecialTexts:
    """The texts of the special tokens of a tokenizer."""

    texts: tuple[str, ...]

    def positions(self, message: str) -> Iterator[int]:
        """A character of each special text in `message`, or that template and message may form.

        A template may remove the white space around a message.
        """
        core = message.strip()
        if not self.texts or not core:
            return
        yield from (match.start() for match in self._pattern.finditer(message, overlapped=True))
        start = len(message) - len(message.lstrip())
        sizes = range(1, min(self._longest, len(core) + 1))
        if any(core[:size] in self._endings for size in sizes) or core in self._all:
            yield start
        for size in sizes:
            if core[-size:] in self._beginnings:
                yield start + len(core) - size

    @functools.cached_property
    def _pattern(self) -> regex.Pattern[str]:
        return regex.compile("|".join(map(regex.escape, sorted(self.texts, key=len, reverse=True))))

    @functools.cached_property
    def _longest(self) -> int:
        return max(map(len, self.texts))

    @functools.cached_property
    def _beginnings(self) -> frozenset[str]:
        return frozenset(text[:size] for text in self.texts for size in range(1, len(text)))

    @functools.cached_property
    def _endings(self) -> frozenset[str]:
        return frozenset(text[size:] for text in self.texts for size in range(1, len(text)))

    @functools.cached_property
    def _all(self) -> str:
        return "\n\n".join(self.texts)


@dataclass(frozen=True)
class Hider:
    """Replaces characters of special texts in messages by stand-ins, which `stand_ins` collects."""

    special: SpecialTexts
    stand_ins: dict[int, str] = field(default_factory=dict)
    _by_character: dict[str, str] = field(default_factory=dict)

    def hidden(self, message: str) -> str:
        """`message` with stand-ins; its own lone surrogates become "?", as in any encoded text."""
        message = encodable(message)
        positions = set(self.special.positions(message))
        if not positions:
            return message
        characters = list(message)
        for position in positions:
            characters[position] = self._stand_in(characters[position])
        return "".join(characters)

    def _stand_in(self, character: str) -> str:
        if character not in self._by_character:
            number = FIRST_STAND_IN + len(self._by_character)
            if number > LAST_STAND_IN:
                raise TokenizerError("the special tokens begin with too many different characters")
            self._by_character[character] = chr(number)
            self.stand_ins[number] = character
        return self._by_character[character]


@functools.lru_cache(maxsize=8)
def special_texts(texts: tuple[str, ...]) -> SpecialTexts:
    """Cached, because its parts are built at first use."""
    return SpecialTexts(texts)
