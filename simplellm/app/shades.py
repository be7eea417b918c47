"""What a model thinks, as shaded text and bars: which token gets which colour, and what stands there where there is none.

Pure functions: no terminal, no rich and no torch here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from simplellm.inference.reply import StreamedToken

RGB = tuple[int, int, int]
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
# viridis (van der Walt and Smith 2015) at 0, 1/9 ... 1: its lightness alone tells the order, so colour vision does not matter
SCALE: tuple[RGB, ...] = (
    (68, 1, 84), (72, 40, 120), (62, 73, 137), (49, 104, 142), (38, 130, 142),
    (31, 158, 137), (53, 183, 121), (110, 206, 88), (181, 222, 43), (253, 231, 37),
)  # fmt: skip
LINE_END = "\u21b5"  # shown where a token holds a line end, so that its shade can be seen
BLOCKS, ASCII_BLOCKS = (
    " \u258f\u258e\u258d\u258c\u258b\u258a\u2589\u2588",
    " #",
)  # a cell from empty to full
BARS_FROM_COLUMNS = 44  # two bars side by side; under it one under the other
SHARE_COLUMNS = 7  # ` 100.0%`
FEWEST_BITS = 2.0**-149  # least float32 over 0: what a probability of 0 may have been


@dataclass(frozen=True)
class Mark:
    """A piece of text with its place on the scale, 0 to 1 (None: not shaded), and the label that says the same in words."""

    text: str
    level: float | None
    label: str = ""


@dataclass(frozen=True)
class Tokens:
    """Shaded text to show. Labels stand behind each token where there is no colour, or always."""

    marks: tuple[Mark, ...]
    always_labels: bool = False
    summary: str = ""  # a line under it


@dataclass(frozen=True)
class Bar:
    """One candidate: its probability before and after the settings (None: they leave it out)."""

    name: str
    before: float
    after: float | None


@dataclass(frozen=True)
class Bars:
    """Candidates to show, each with two bars."""

    rows: tuple[Bar, ...]
    headers: tuple[str, str, str] = ("token", "the model", "after the settings")
    summary: str = ""


@dataclass(frozen=True)
class Columns:
    """Texts to show beside each other, or one under the other where that is too narrow."""

    headers: tuple[str, ...]
    texts: tuple[str, ...]
    summary: str = ""


class Span(NamedTuple):
    """Text of one look: shaded by `level`, a label, or plain."""

    text: str
    level: float | None = None
    is_label: bool = False


def background(level: float) -> RGB:
    """The colour of `level`, which is cut to 0 to 1."""
    place = min(max(level, 0.0), 1.0) * (len(SCALE) - 1)
    low = min(int(place), len(SCALE) - 2)
    r, g, b = (
        round(a + (b - a) * (place - low)) for a, b in zip(SCALE[low], SCALE[low + 1], strict=True)
    )
    return r, g, b


def foreground(color: RGB) -> RGB:
    """Black or white, whichever is easier to read on `color`: the contrast is never under the 4.5 of WCAG AA."""
    return max(BLACK, WHITE, key=lambda ink: contrast(ink, color))


def contrast(one: RGB, other: RGB) -> float:
    """Contrast ratio of two colours, 1 to 21 (WCAG 2)."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(color: RGB) -> float:
    """Relative luminance of an sRGB colour, 0 to 1 (WCAG 2)."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (value / 255 for value in color)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def spans(mark: Mark, with_label: bool, line_end: str = LINE_END) -> Iterator[Span]:
    """How a mark is written: line ends are never shaded themselves, and a label stands before those at the end."""
    shown = mark.text.replace("\n", line_end + "\n")
    body = shown.rstrip("\n")
    for number, line in enumerate(body.split("\n")):
        if number:
            yield Span("\n")
        if line:
            yield Span(line, mark.level)
    if with_label and mark.label:
        yield Span(f"[{mark.label}]", is_label=True)
    if shown != body:
        yield Span(shown[len(body) :])


# ---------------------------------------------------------------- the probabilities of a reply


class Shading:
    """Turns the pieces of a reply into marks as they come.

    Where several tokens make one text (the bytes of a character, a possible stop text), it gets the probability of all
    of them together.
    """

    def __init__(self) -> None:
        self._probability = 1.0

    def mark(self, piece: StreamedToken) -> Mark | None:
        """None while there is nothing to show."""
        self._probability *= piece.probability
        if not piece.text:
            return None
        probability, self._probability = self._probability, 1.0
        return Mark(piece.text, probability, short(probability))


def marks_of(pieces: Iterable[StreamedToken]) -> tuple[Mark, ...]:
    shading = Shading()
    return tuple(mark for mark in map(shading.mark, pieces) if mark)


def short(probability: float) -> str:
    """A probability in few characters: `.82`, `1`, `<.01`."""
    if probability < 0.005:
        return "<.01"
    return f"{probability:.2f}".lstrip("0") if probability < 0.995 else "1"


def summary_of(pieces: Iterable[StreamedToken]) -> str:
    """Surprise and entropy of a reply in one line; empty where it has no token."""
    tokens = [piece for piece in pieces if piece.token is not None]
    if not tokens:
        return ""
    bits = sum(-math.log2(max(piece.probability, FEWEST_BITS)) for piece in tokens) / len(tokens)
    entropy = sum(piece.entropy for piece in tokens) / len(tokens) / math.log(2)
    likeliest = sum(piece.rank == 1 for piece in tokens)
    means = f"surprise {bits:.2f} bits/token, perplexity {2**bits:.3g}, entropy {entropy:.2f}"
    return f"{means}, {likeliest} of {len(tokens)} tokens were the likeliest"


# ---------------------------------------------------------------- bars


def bar_lines(
    bars: Bars, columns: int, cells: Callable[[str], int] = len, ascii_only: bool = False
) -> list[str]:
    """The bars for a terminal that wide; `cells` says how wide a text is on it. All bars have one scale."""
    is_narrow = columns < BARS_FROM_COLUMNS
    names = [bars.headers[0], *(row.name for row in bars.rows)]
    width = min(max(map(cells, names)), columns if is_narrow else columns // 4)
    names = [fitted(name, width, cells, ascii_only) for name in names]
    long = (columns - 1 if is_narrow else (columns - width - 4) // 2) - SHARE_COLUMNS
    highest = (
        max((share for row in bars.rows for share in (row.before, row.after or 0)), default=0) or 1
    )
    pairs = [
        [_bar(share, highest, max(long, 1), ascii_only) for share in (row.before, row.after)]
        for row in bars.rows
    ]
    if is_narrow:
        return [
            line
            for name, pair in zip(names[1:], pairs, strict=True)
            for line in (name.rstrip(), *_indented(pair))
        ]
    head = "  ".join(
        [
            names[0],
            *(
                fitted(header, long + SHARE_COLUMNS, cells, ascii_only)
                for header in bars.headers[1:]
            ),
        ]
    )
    return [
        head.rstrip(),
        *("  ".join([name, *pair]) for name, pair in zip(names[1:], pairs, strict=True)),
    ]


def _indented(lines: Iterable[str]) -> list[str]:
    return [f" {line}" for line in lines]


def percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _bar(share: float | None, highest: float, columns: int, ascii_only: bool) -> str:
    """A bar and its number, always as wide as each other."""
    blocks = ASCII_BLOCKS if ascii_only else BLOCKS
    parts = len(blocks) - 1
    n = math.ceil((share or 0) / highest * columns * parts)
    filled = blocks[-1] * (n // parts) + (blocks[n % parts] if n % parts else "")
    return filled.ljust(columns) + percent(share).rjust(SHARE_COLUMNS)


def fitted(text: str, columns: int, cells: Callable[[str], int], ascii_only: bool = False) -> str:
    """`text` exactly that wide: filled with spaces, or cut with dots."""
    if cells(text) > columns:
        dots = "." if ascii_only else "\u2026"
        while text and cells(text + dots) > columns:
            text = text[:-1]
        text += dots if columns else ""
    return text + " " * (columns - cells(text))
