"""Elements of SVG pictures that look alike in browsers, office programs and converters.

Sizes, fonts and light colours are attributes, which every renderer reads. Only the colours for
dark pages are CSS, which some renderers ignore. Coordinates are in pixels.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from html import escape

WIDTH = 960  # of a picture: half of a slide of 1920 x 1080
SIZE = 16  # of the letters
TITLE_SIZE = 22
MARGIN = 24
# A renderer takes the first family that it has; some look at the first name only.
SANS = (
    "Arial, 'Helvetica Neue', 'Segoe UI', 'Noto Sans', 'DejaVu Sans', 'Liberation Sans', "
    "'Malgun Gothic', 'Apple SD Gothic Neo', 'Noto Sans CJK KR', NanumGothic, sans-serif"
)
MONO = (
    "'DejaVu Sans Mono', Menlo, Consolas, 'Noto Sans Mono', 'Liberation Mono', "
    "'Malgun Gothic', 'Apple SD Gothic Neo', 'Noto Sans CJK KR', NanumGothicCoding, monospace"
)
NARROW_EM, WIDE_EM = 0.602, 1.0  # widths of characters of MONO (DejaVu Sans Mono)
COLORS = {  # role: on a light page, on a dark page
    "paper": ("#ffffff", "#16181d"),
    "title": ("#111111", "#eeeeee"),
    "ink": ("#444444", "#bbbbbb"),
    "grid": ("#dddddd", "#333333"),
    "axis": ("#666666", "#888888"),
    "first": ("#2b6cb0", "#63b3ed"),
    "second": ("#c05621", "#f6ad55"),
}
DARK_STYLE = "".join(
    f".f-{role}{{fill:{dark}}}.s-{role}{{stroke:{dark}}}" for role, (_, dark) in COLORS.items()
)
NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def document(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    """A whole SVG file. `title` is for readers who do not see the picture."""
    parts = [part for part in parts if part]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
            f'viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{xml_text(title)}">',
            f"<style>@media (prefers-color-scheme: dark){{{DARK_STYLE}}}</style>",
            rect(0, 0, width, height, "paper"),
            *parts,
            "</svg>\n",
        ]
    )


def xml_text(text: str) -> str:
    """Any text escaped for XML; characters that XML excludes become U+FFFD."""
    return escape(NOT_XML.sub("\ufffd", text))


def text(
    x: float,
    y: float,
    words: str,
    role: str = "ink",
    size: float = SIZE,
    anchor: str = "start",
    family: str = SANS,
    bold: bool = False,
    more: Mapping[str, str] | None = None,
) -> str:
    """One line of text; `y` is its baseline. `role` is a key of COLORS, or a colour.

    more: attributes of the element that are added or replaced.
    """
    attributes = {
        "x": f"{x:.1f}",
        "y": f"{y:.1f}",
        "font-family": family,
        "font-size": f"{size:g}",
        "text-anchor": anchor,
        **({"font-weight": "bold"} if bold else {}),
        **_painted("fill", role),
        **(more or {}),
        "xml:space": "preserve",
    }
    return _element("text", attributes, xml_text(words))


def text_over(x: float, y: float, words: str, size: float = SIZE, anchor: str = "start") -> str:
    """Text on lines: first its outline in the colour of the page. Not all renderers know
    `paint-order`, with which one element would do.
    """
    outline = {
        **_painted("stroke", "paper"),
        "class": "f-paper s-paper",
        "stroke-width": "5",
        "stroke-linejoin": "round",
    }
    below = text(x, y, words, "paper", size, anchor, more=outline)
    return below + text(x, y, words, "ink", size, anchor)


def upward_text(
    x: float, y: float, words: str, size: float = SIZE, anchor: str = "middle", family: str = SANS
) -> str:
    """Text that is read from bottom to top."""
    turned = {"transform": f"translate({x:.1f} {y:.1f}) rotate(-90)"}
    return text(0, 0, words, "ink", size, anchor, family, more=turned)


def rect(
    x: float, y: float, width: float, height: float, role: str, radius: float = 0, title: str = ""
) -> str:
    """A filled rectangle; browsers show `title` below the pointer."""
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "width": f"{width:.1f}", "height": f"{height:.1f}"}
    rounded = {"rx": f"{radius:g}"} if radius else {}
    inner = f"<title>{xml_text(title)}</title>" if title else ""
    return _element("rect", {**place, **rounded, **_painted("fill", role)}, inner)


def line(x1: float, y1: float, x2: float, y2: float, role: str, width: float = 1) -> str:
    return path(f"M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}", role, width)


def path(data: str, role: str, width: float = 2, opacity: float = 1, dash: str = "") -> str:
    """A line through the points of `data`, not filled."""
    look = {
        "fill": "none",
        **_painted("stroke", role),
        "stroke-width": f"{width:g}",
        "stroke-linecap": "round",
        "stroke-linejoin": "round",
    }
    faint = {"stroke-opacity": f"{opacity:g}"} if opacity < 1 else {}
    dashed = {"stroke-dasharray": dash} if dash else {}
    return _element("path", {**look, **faint, **dashed, "d": data})


def dot(x: float, y: float, role: str, radius: float = 5) -> str:
    place = {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": f"{radius:g}"}
    return _element("circle", {**_painted("fill", role), **place})


def _painted(attribute: str, role: str) -> dict[str, str]:
    """The attribute for light pages and the class that a dark page replaces it by."""
    if role not in COLORS:
        return {attribute: role}
    return {"class": f"{attribute[0]}-{role}", attribute: COLORS[role][0]}


def _element(name: str, attributes: Mapping[str, str], inner: str = "") -> str:
    given = " ".join(f'{key}="{value}"' for key, value in attributes.items())
    return f"<{name} {given}>{inner}</{name}>" if inner else f"<{name} {given}/>"


# ---------------------------------------------------------------- widths of text


def width_of(words: str, size: float = SIZE) -> float:
    """Estimated width of a line in MONO; letters of SANS are narrower on average."""
    return sum(map(_em, words)) * size


def _em(character: str) -> float:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Mn", "Me"):
        return 0.0
    return WIDE_EM if unicodedata.east_asian_width(character) in "WF" else NARROW_EM


def fitted(words: str, width: float, size: float = SIZE) -> str:
    """`words`, or its beginning with dots, so that it is not wider than `width`."""
    if width_of(words, size) <= width:
        return words
    while words and width_of(words + "\u2026", size) > width:
        words = words[:-1]
    return words + "\u2026"


def wrapped(words: str, width: float, size: float = SIZE) -> list[str]:
    """Lines that are not wider than `width`, broken at spaces where possible."""
    return [part for line in words.split("\n") for part in _wrapped_line(line, width, size)]


def _wrapped_line(words: str, width: float, size: float) -> list[str]:
    lines = [""]
    for piece in re.findall(r"\S+\s*|\s+", words):
        if lines[-1] and width_of(lines[-1] + piece.rstrip(), size) > width:
            lines.append("")
        for character in piece:
            if lines[-1] and width_of(lines[-1] + character.rstrip(), size) > width:
                lines.append("")
            lines[-1] += character
    return lines
