"""Pastes at the chat prompt: each is one message. Long ones are shown as one short line."""

from __future__ import annotations

import contextlib
import os
import re
import select
from collections.abc import Callable
from pathlib import Path
from typing import Any

LONG_PASTE = 10_000  # characters; terminals take minutes to show megabytes
PASTE_BEGIN, PASTE_END = b"\x1b[200~", b"\x1b[201~"  # the marks of a terminal (bracketed paste)
# Text with a line end that is followed by more text. No key but Enter, Tab and those of characters
# sends these bytes.
SEVERAL_LINES = re.compile(
    rb"(?:[^\0-\x1f\x7f]|[\t\r\n])*[\r\n](?:[^\0-\x1f\x7f]|\t)(?:[^\0-\x1f\x7f]|[\t\r\n])*"
)
FEWEST_BYTES = 4  # of a paste; a busy machine may read two or three typed keys at once
READ_CHARACTERS = 1024  # at once
BURST_SECONDS = 0.02  # a paste arrives without longer pauses


class Pastes:
    """The long pastes of a session. The prompt shows a name for each of them."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def shown(self, text: str) -> str:
        """What the prompt shows for a paste: the text, or the name of a long one."""
        if len(text) <= LONG_PASTE:
            return text
        name = f"[paste {len(self._texts) + 1}: {len(text):,} characters]"
        self._texts[name] = text
        return name

    def filled(self, line: str) -> str:
        """`line` with the names of pastes replaced by their texts."""
        for name, text in self._texts.items():
            line = line.replace(name, text)
        return line

    def are_in(self, line: str) -> bool:
        return any(name in line for name in self._texts)


def make_history(path: Path | None, pastes: Pastes) -> Any:
    """The input history, kept in the file `path` if there is one.

    Lines with a long paste are not kept, because their text would be missing.
    """
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    class History(FileHistory):
        def store_string(self, string: str) -> None:
            if not pastes.are_in(string):
                with contextlib.suppress(OSError):  # a full disk must not end the chat
                    super().store_string(string)

    return History(str(path)) if path else InMemoryHistory()


def as_paste(burst: bytes) -> bytes:
    """Keys that arrived at once, with the marks of a paste around them if they can only be one.

    Text of several lines is a paste: a terminal that does not mark pastes (bracketed paste) sends
    it so. A burst with control characters is keys, or a paste that the terminal has marked.
    """
    is_paste = len(burst) >= FEWEST_BYTES and SEVERAL_LINES.fullmatch(burst)
    return PASTE_BEGIN + burst + PASTE_END if is_paste else burst


def improve_pastes(source: Any) -> None:
    """Let the prompt read long pastes in linear time, and recognise pastes without marks."""
    from prompt_toolkit.input.vt100 import Vt100Input

    if isinstance(source, Vt100Input):
        source.vt100_parser = _linear_parser(source.vt100_parser.feed_key_callback)
        if os.isatty(source.fileno()):  # a program sends lines at once that are no paste
            source.stdin_reader = _burst_reader(source)


def _linear_parser(callback: Callable[[Any], None]) -> Any:
    """A parser that searches only new input for the end of a paste.

    The one of prompt_toolkit searches all input of the paste again at every read: quadratic time.
    """
    from prompt_toolkit.input.vt100_parser import Vt100Parser

    end_mark = PASTE_END.decode()

    class Parser(Vt100Parser):
        parts: list[str] = []
        end = ""  # last characters of the input so far

        def feed(self, data: str) -> None:
            if not self._in_bracketed_paste:
                super().feed(data)
                return
            self.parts.append(data)
            recent = self.end + data
            self.end = recent[-len(end_mark) :]
            if end_mark in recent:
                self._paste_buffer = "".join(self.parts)
                self.parts = []
                self.end = ""
                super().feed("")

    return Parser(callback)


def _burst_reader(source: Any) -> Any:
    """A reader of the terminal that returns all input that arrives at once, marked by `as_paste`.

    Single keys, and pastes with marks, are returned without waiting for more.
    """
    from prompt_toolkit.input.posix_utils import PosixStdinReader

    class Reader(PosixStdinReader):
        def read(self, count: int = READ_CHARACTERS) -> str:
            parts = [super().read(count)]
            if source.vt100_parser._in_bracketed_paste or not _may_be_a_paste(parts[0]):
                return parts[0]
            while not self.closed and select.select([self.stdin_fd], [], [], BURST_SECONDS)[0]:
                parts.append(super().read(count))
            burst = "".join(parts).encode("utf-8", "surrogateescape")
            return as_paste(burst).decode("utf-8", "surrogateescape")

    return Reader(source.fileno(), encoding=source.stdin.encoding)


def _may_be_a_paste(text: str) -> bool:
    has_line_end = "\r" in text or "\n" in text
    return "\x1b" not in text and len(text) > (1 if has_line_end else READ_CHARACTERS // 2)
