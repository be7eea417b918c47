"""Wraps streamed text at words, for a terminal. Pure functions of text and a width.

A word that does not fit begins a new line. Words are separated by white space; each Chinese or
Japanese character is a word. A word that is longer than a line is cut at the edge by the terminal.
Text appears as soon as it arrives, except near the edge: there a word waits until it is complete.

A line ends with a line end, which is also in text copied from the terminal. Spaces up to the edge
instead would let the terminal join the lines, but copies, and lines after a change of the width,
would have runs of spaces within sentences. Conversation files and pipes have the text unchanged.

Replies of a chat may be Markdown: lines of an indented text or of a list item are indented like its
first word, and lines between two fences (```) are code, which is not wrapped at words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

TAB_COLUMNS = 8
HELD_COLUMNS = 32  # before the edge; few words are longer
NO_BREAK_SPACES = "\u00a0\u202f"
# Scripts that are written without spaces: kana and Chinese characters
UNSPACED = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
            (0x20000, 0x3FFFF))  # fmt: skip
EMOJI = (0x1F000, 0x1FAFF)  # with flags and skin tones
EMOJI_JOINERS = "\u200d\ufe0e\ufe0f\u20e3"
FENCE = "```"
HEAD_CHARACTERS = 40  # of a line, which may have its indentation or a fence
# Indentation, and the marker of a list item with the space after it
INDENTATION = re.compile(r"[ \t]*(?:(?:[-*+\u2022]|[0-9]{1,3}[.)])[ \t]+)?")
ERASE = "\b \b"  # the last column
BACKGROUND = " on "  # in a style; a terminal that wraps such text colours the whole new line


class Span(NamedTuple):
    """Text with the name of a style."""

    text: str
    style: str = ""


class WordWrap:
    """Streamed text with line ends between words.

    cells: the columns that a text takes. `column`: of the cursor, while no word is incomplete.
    """

    def __init__(self, cells: Callable[[str], int]) -> None:
        self.column = 0
        self._is_markdown = False
        self._cells = cells
        self._width = 0
        self._is_resized = False
        self._first_column = 0  # of a line that was begun here, after its indentation
        self._head = ""  # the beginning of the current line of the text, in Markdown
        self._is_code = False
        self._word: list[Span] = []  # the incomplete word, one character each
        self._word_cells = 0
        self._n_shown = 0  # characters of it that are on the screen

    def begin_markdown(self, before: str = "") -> None:
        """What follows is a reply of a chat, after the lines `before` of it."""
        self._is_markdown = True
        fences = (line.lstrip().startswith(FENCE) for line in before.split("\n"))
        self._is_code = sum(fences) % 2 == 1

    def push(self, text: str, style: str, width: int) -> list[Span]:
        """What to write now. A change of the width takes effect at the next word."""
        self._is_resized |= self._width not in (0, width)
        self._width = width
        out: list[Span] = []
        for character in text:
            if character == "\n":
                out += [*self._end_word(), Span("\n")]
                self._end_line()
                continue
            if self._is_markdown and len(self._head) < HEAD_CHARACTERS:
                self._head += character
            if self._is_code:
                out += self._code(character, style)
            elif character.isspace() and character not in NO_BREAK_SPACES:
                out += [*self._end_word(), *self._space(character, style)]
            elif is_unspaced(character):
                out += [*self._end_word(), *self._add(character, style), *self._end_word()]
            else:
                out += self._add(character, style)
        has_room = width - self.column >= min(HELD_COLUMNS, width // 2)
        if has_room and self.column + self._word_cells < width:
            out += self._show_word(self._n_measurable())
        return joined(out)

    def finish(self) -> list[Span]:
        """The rest, at the end of the text."""
        return joined(self._end_word())

    def _end_line(self) -> None:
        """A line end in the text."""
        if self._head.lstrip().startswith(FENCE):
            self._is_code = not self._is_code
        self._head = ""
        self.column = self._first_column = 0
        self._is_resized = False

    def _break_line(self) -> Span:
        """A line end between words."""
        indentation = INDENTATION.match(self._head)
        assert indentation
        cells = self._cells(indentation[0].expandtabs(TAB_COLUMNS))
        self.column = self._first_column = cells if cells <= self._width // 3 else 0
        return Span("\n" + " " * self.column)

    def _code(self, character: str, style: str) -> list[Span]:
        """A character of a line of code, which the terminal cuts at its edge."""
        is_tab = character == "\t"
        n = TAB_COLUMNS - self.column % TAB_COLUMNS if is_tab else self._cells(character)
        self.column = (self.column + n) % self._width
        return [Span(" " * n if is_tab else character, style)]

    def _space(self, character: str, style: str) -> list[Span]:
        """White space between words. What does not fit into the line is left out."""
        if self._is_resized:  # the column of the cursor is unknown
            self._is_resized = False
            return [self._break_line()]
        is_tab = character == "\t"
        n = TAB_COLUMNS - self.column % TAB_COLUMNS if is_tab else self._cells(character)
        if self.column + n > self._width:
            return []
        self.column += n
        return [Span(" " * n if is_tab else character, style)]

    def _add(self, character: str, style: str) -> list[Span]:
        """Add a character to the incomplete word, and begin a new line if it does not fit."""
        out: list[Span] = []
        cells = self._cells(character)
        if self.column + self._word_cells + cells > self._width:
            if self.column > self._first_column:
                n_columns = sum(self._cells(span.text) for span in self._word[: self._n_shown])
                out += [Span(ERASE * n_columns), self._break_line()]
                self._n_shown = 0
            if self.column + self._word_cells + cells > self._width:
                out += self._end_word()
                self.column = self._first_column = 0
                if BACKGROUND in style:
                    out.append(Span("\n"))
        self._word.append(Span(character, style))
        self._word_cells += cells
        return out

    def _n_measurable(self) -> int:
        """How many characters of the word take the same columns on every terminal.

        What follows them waits for the end of the word, so that it is never erased.
        """
        numbers = (n for n, span in enumerate(self._word) if is_emoji(span.text))
        return next(numbers, len(self._word))

    def _show_word(self, n_characters: int) -> list[Span]:
        new = self._word[self._n_shown : n_characters]
        self._n_shown = max(self._n_shown, n_characters)
        return new

    def _end_word(self) -> list[Span]:
        new = self._show_word(len(self._word))
        self.column += self._word_cells
        self._word = []
        self._word_cells = 0
        self._n_shown = 0
        return new


def is_unspaced(character: str) -> bool:
    """Whether a line may be broken before and after this character."""
    return any(first <= ord(character) <= last for first, last in UNSPACED)


def is_emoji(character: str) -> bool:
    """Whether it may be a part of an emoji sequence, which has another width on each terminal."""
    return character in EMOJI_JOINERS or EMOJI[0] <= ord(character) <= EMOJI[1]


def joined(spans: Iterable[Span]) -> list[Span]:
    """`spans` with neighbours of one style joined, and without empty ones."""
    out: list[Span] = []
    for span in spans:
        if out and out[-1].style == span.style:
            out[-1] = Span(out[-1].text + span.text, span.style)
        elif span.text:
            out.append(span)
    return out
