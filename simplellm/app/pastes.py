"""Long pastes at the chat prompt: shown as one short line, sent whole, not in the history."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

LONG_PASTE = 10_000  # characters; terminals take minutes to show megabytes
PASTE_END = "\x1b[201~"


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


def read_pastes_in_linear_time(source: Any) -> None:
    """Let prompt_toolkit search only new input for the end of a paste.

    Its own parser searches all input of the paste again at every read: quadratic time.
    """
    from prompt_toolkit.input.vt100_parser import Vt100Parser

    class Parser(Vt100Parser):
        parts: list[str] = []
        end = ""  # last characters of the input so far

        def feed(self, data: str) -> None:
            if not self._in_bracketed_paste:
                super().feed(data)
                return
            self.parts.append(data)
            recent = self.end + data
            self.end = recent[-len(PASTE_END) :]
            if PASTE_END in recent:
                self._paste_buffer = "".join(self.parts)
                self.parts = []
                self.end = ""
                super().feed("")

    if isinstance(getattr(source, "vt100_parser", None), Vt100Parser):
        source.vt100_parser = Parser(source.vt100_parser.feed_key_callback)
