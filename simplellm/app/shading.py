"""Text shaded by probability: the colour scale, and marks for the tokens of a reply.

Pure functions: no terminal, no rich and no torch here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from simplellm.app.results import Mark

if TYPE_CHECKING:
    from simplellm.inference.reply import StreamedToken

RGB = tuple[int, int, int]
BLACK: RGB = (0, 0, 0)
WHITE: RGB = (255, 255, 255)
# viridis (van der Walt and Smith 2015) at 0, 1/9, ..., 1. Its lightness alone shows the order, so
# that it is readable with any colour vision.
SCALE: tuple[RGB, ...] = (
    (68, 1, 84), (72, 40, 120), (62, 73, 137), (49, 104, 142), (38, 130, 142),
    (31, 158, 137), (53, 183, 121), (110, 206, 88), (181, 222, 43), (253, 231, 37),
)  # fmt: skip
LINE_END = "\u21b5"  # shown for a line end within a token, so that its shade is visible
ABOUT_INVALID = "\ufffd stands for bytes that are no character"
LEAST_PROBABILITY = 2.0**-149  # smallest float32 above 0: a probability of 0 was rounded down


class Span(NamedTuple):
    """Text with one style: shaded by `level`, a label, or plain."""

    text: str
    level: float | None = None
    is_label: bool = False


def spans(mark: Mark, with_label: bool, line_end: str = LINE_END) -> Iterator[Span]:
    """A mark as spans. Line ends are not shaded; a label precedes the line ends at the end."""
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


# ---------------------------------------------------------------- colours


def background(level: float) -> RGB:
    """The colour of `level`, which is clipped to 0 to 1."""
    place = min(max(level, 0.0), 1.0) * (len(SCALE) - 1)
    low = min(int(place), len(SCALE) - 2)
    r, g, b = (
        round(a + (b - a) * (place - low)) for a, b in zip(SCALE[low], SCALE[low + 1], strict=True)
    )
    return r, g, b


def foreground(color: RGB) -> RGB:
    """Black or white, whichever has more contrast on `color`: at least the 4.5 of WCAG AA."""
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


# ---------------------------------------------------------------- probabilities of a reply


class Shading:
    """Turns the pieces of a reply into marks as they arrive.

    Several tokens may make up one text (the bytes of a character, a possible stop text). The mark
    then has the product of their probabilities.
    """

    def __init__(self) -> None:
        self._probability = 1.0

    def mark(self, piece: StreamedToken) -> Mark | None:
        """None while there is no text to show."""
        self._probability *= piece.probability
        if not piece.text:
            return None
        probability = self._probability
        self._probability = 1.0
        return Mark(piece.text, probability, short_number(probability))


def marks_of(pieces: Iterable[StreamedToken]) -> tuple[Mark, ...]:
    shading = Shading()
    return tuple(mark for mark in map(shading.mark, pieces) if mark)


def short_number(probability: float) -> str:
    """A probability in few characters: `.82`, `1`, `<.01`."""
    if probability < 0.005:
        return "<.01"
    return f"{probability:.2f}".lstrip("0") if probability < 0.995 else "1"


def summary_of(pieces: Iterable[StreamedToken]) -> str:
    """Mean surprise and entropy of a reply in one line; empty if it has no token."""
    tokens = [piece for piece in pieces if piece.token is not None]
    if not tokens:
        return ""
    n = len(tokens)
    surprise = sum(-math.log2(max(piece.probability, LEAST_PROBABILITY)) for piece in tokens) / n
    entropy = sum(piece.entropy for piece in tokens) / n / math.log(2)
    n_first = sum(piece.rank == 1 for piece in tokens)
    has_invalid = any("\ufffd" in piece.text for piece in tokens)
    note = f"; {ABOUT_INVALID}" if has_invalid else ""
    return (
        f"surprise {surprise:.2f} bits/token, perplexity {2**surprise:.3g}, "
        f"entropy {entropy:.2f}, {n_first} of {n} tokens were the most likely{note}"
    )
