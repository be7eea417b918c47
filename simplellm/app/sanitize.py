"""Foreign text made safe to show: what could drive a terminal, turn text around or hide it is spelled out instead.

Foreign is all that did not come from this program: prompts, what a model writes, texts, names of files and runs, values of
settings, and messages that quote them. No terminal here.
"""

from __future__ import annotations

import json
import re

# Characters as classes of a regular expression
BIDI_CONTROLS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
CONTROLS = (
    "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # C0 but tab, line end and carriage return; DEL; C1
)
SEPARATORS = "\u2028\u2029"
HALVES = "\ud800-\udfff"  # surrogates: bytes that were no text, which no stream can encode
INVISIBLE = (  # never part of a word or an emoji
    "\u180e\u2061-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e001f\U000e0080-\U000e00ff\U000e01f0-\U000e0fff"
)
TAGS = "\U000e0020-\U000e007f"  # ASCII again, unseen: a few make a flag, more hide any text
SELECTORS = "\ufe00-\ufe0f\U000e0100-\U000e01ef"  # a variant of the character before: one makes sense, a row hides bytes
JOINERS = (
    "\xad\u200b\u200c\u200d\u2060"  # unseen too, but words of many languages and emoji need them
)

NEVER = BIDI_CONTROLS + CONTROLS + SEPARATORS + HALVES + INVISIBLE
NEVER_SHOWN, HIDDEN, TAG, JOINER = (
    re.compile(f"[{which}]") for which in (NEVER, TAGS + SELECTORS, TAGS, JOINERS)
)
LOOKED_AT = "\r" + NEVER + TAGS + SELECTORS + JOINERS
PARTS = re.compile(
    f"[^{LOOKED_AT}]+|[{LOOKED_AT}]"
)  # plain text, or one character that needs a look
UNSAFE_ALONE = re.compile(f"[{NEVER}{TAGS}]")
WHERE_UNSAFE = (
    (0x00, 0x3000),
    (0xFE00, 0xFFFF),
    (0x1BC00, 0x1BCFF),
    (0x1D100, 0x1D1FF),
    (0xE0000, 0xE00FF),
)

BLACK_FLAG, MOST_TAGS = "\U0001f3f4", 7  # with its tags it is the flag of Wales, of Texas, ...
CONTROL_PICTURES, DELETE_PICTURE = 0x2400, "\u2421"  # U+2400 is the picture of NUL, and so on


class Sanitizer:
    """Makes a stream of foreign text safe, the same way however it is cut into pieces.

    ESC and its like become pictures, so what follows them is harmless, now or in a later piece. CR LF is one line end and a
    CR alone is shown: only a CR at the end of a piece has to wait for the next one, all else is given at once.
    """

    def __init__(self) -> None:
        self._holds_return = False
        self._see("")

    def push(self, text: str) -> str:
        return "".join(map(self._push, PARTS.findall(text)))

    def finish(self) -> str:
        """What was held back, now that no more text comes; the sanitizer is as new afterwards."""
        held = spelled("\r") if self._holds_return else ""
        self._holds_return = False
        self._see("")
        return held

    def _push(self, part: str) -> str:
        lone_return = spelled("\r") if self._holds_return and not part.startswith("\n") else ""
        self._holds_return = part == "\r"
        return lone_return + self._safe(part)

    def _safe(self, part: str) -> str:
        if HIDDEN.match(part):
            self._n_hidden += 1
            most = MOST_TAGS if self._is_after_flag else 0 if TAG.match(part) else 1
            return part if self._n_hidden <= most else spelled(part)
        if not JOINER.match(part):
            self._see(part[-1])
        return "" if self._holds_return else spelled(part) if NEVER_SHOWN.match(part) else part

    def _see(self, character: str) -> None:
        """Count anew what hides behind this character."""
        self._n_hidden, self._is_after_flag = 0, character == BLACK_FLAG


def visible(text: str) -> str:
    """A whole text with nothing in it that could drive a terminal."""
    sanitizer = Sanitizer()
    return sanitizer.push(text) + sanitizer.finish()


def one_line(text: str) -> str:
    """`text` made safe, on one line."""
    return visible(" ".join(text.split()))


def spelled(character: str) -> str:
    """What stands for a character that must not be shown: its picture, or `<U+009B>`."""
    code = ord(character)
    if code == 0x7F:
        return DELETE_PICTURE
    return chr(CONTROL_PICTURES + code) if code < 0x20 else f"<U+{code:04X}>"


def safe_json(document: str) -> str:
    """A JSON document that means the same and can be shown: what is not plain in its strings becomes an escape."""
    return UNSAFE_ALONE.sub(lambda found: json.dumps(found[0])[1:-1], document)


def stand_ins() -> dict[str, str]:
    """What stands for each character that is unsafe by itself: for a library that shows text through a door of its own."""
    characters = "".join(
        chr(code) for first, last in WHERE_UNSAFE for code in range(first, last + 1)
    )
    return {character: spelled(character) for character in UNSAFE_ALONE.findall(characters)}
