"""Makes untrusted text safe to show: unsafe characters are replaced by visible ones.

Unsafe characters control a terminal, reverse the direction of text, or hide text. Untrusted text
did not come from this program: prompts, model output, texts, names of files and runs, values of
settings, and messages that quote them. No terminal here.
"""

from __future__ import annotations

import json
import re

# Characters, as classes of a regular expression
BIDI_CONTROLS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
# C0 except tab, line end and carriage return; DEL; C1
CONTROLS = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
SEPARATORS = "\u2028\u2029"
SURROGATES = "\ud800-\udfff"  # invalid bytes that were decoded; no stream can encode them
INVISIBLE = (  # never part of a word or an emoji
    "\u180e\u2061-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e001f\U000e0080-\U000e00ff\U000e01f0-\U000e0fff"
)
TAGS = "\U000e0020-\U000e007f"  # invisible ASCII: a few form a flag, more can hide any text
# variation selectors: one after a character makes sense, a sequence can hide bytes
SELECTORS = "\ufe00-\ufe0f\U000e0100-\U000e01ef"
# invisible too, but needed by words of many languages and by emoji
JOINERS = "\xad\u200b\u200c\u200d\u2060"

NEVER = BIDI_CONTROLS + CONTROLS + SEPARATORS + SURROGATES + INVISIBLE
NEVER_SHOWN, HIDDEN, TAG, JOINER = (
    re.compile(f"[{which}]") for which in (NEVER, TAGS + SELECTORS, TAGS, JOINERS)
)
CHECKED = "\r" + NEVER + TAGS + SELECTORS + JOINERS
PARTS = re.compile(f"[^{CHECKED}]+|[{CHECKED}]")  # plain text, or one character to check
UNSAFE_ALONE = re.compile(f"[{NEVER}{TAGS}]")
UNSAFE_RANGES = (  # contain all of UNSAFE_ALONE
    (0x00, 0x3000),
    (0xFE00, 0xFFFF),
    (0x1BC00, 0x1BCFF),
    (0x1D100, 0x1D1FF),
    (0xE0000, 0xE00FF),
)

BLACK_FLAG = "\U0001f3f4"  # with tags it is the flag of Wales, of Texas, ...
MOST_TAGS = 7  # after a black flag
CONTROL_PICTURES = 0x2400  # U+2400 is the picture of NUL, U+2401 of the next character, ...
DELETE_PICTURE = "\u2421"


class Sanitizer:
    """Makes a stream of untrusted text safe. The result does not depend on how it is cut.

    ESC and other control characters become pictures, so that the characters after them are
    harmless, also in a later piece. CR LF is one line end; a CR alone is made visible. Only a CR
    at the end of a piece waits for the next piece.
    """

    def __init__(self) -> None:
        self._holds_return = False
        self._begin_after("")

    def push(self, text: str) -> str:
        return "".join(map(self._push, PARTS.findall(text)))

    def finish(self) -> str:
        """The text still held back at the end of the stream. Then a new stream can begin."""
        held = spelled("\r") if self._holds_return else ""
        self._holds_return = False
        self._begin_after("")
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
            self._begin_after(part[-1])
        return "" if self._holds_return else spelled(part) if NEVER_SHOWN.match(part) else part

    def _begin_after(self, character: str) -> None:
        """Restart the count of hidden characters after this visible one."""
        self._n_hidden = 0
        self._is_after_flag = character == BLACK_FLAG


def visible(text: str) -> str:
    """A whole text made safe."""
    sanitizer = Sanitizer()
    return sanitizer.push(text) + sanitizer.finish()


def one_line(text: str) -> str:
    """A whole text made safe, on one line."""
    return visible(" ".join(text.split()))


def spelled(character: str) -> str:
    """The visible replacement of an unsafe character: its picture, or `<U+009B>`."""
    code = ord(character)
    if code == 0x7F:
        return DELETE_PICTURE
    return chr(CONTROL_PICTURES + code) if code < 0x20 else f"<U+{code:04X}>"


def safe_json(document: str) -> str:
    """An equivalent JSON document with all unsafe characters in its strings escaped."""
    return UNSAFE_ALONE.sub(lambda found: json.dumps(found[0])[1:-1], document)


def stand_ins() -> dict[str, str]:
    """The replacement of each unsafe character, for libraries that show text themselves."""
    characters = "".join(
        chr(code) for first, last in UNSAFE_RANGES for code in range(first, last + 1)
    )
    return {character: spelled(character) for character in UNSAFE_ALONE.findall(characters)}
