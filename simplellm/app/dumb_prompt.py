"""Shows what is typed at the chat prompt on a terminal that understands no escape sequence."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from simplellm.app.sanitize import visible

TEXT_PROMPT = "> "
ERASE = "\b \b"  # the last column
MOST_ERASED = 8  # characters; what changes more is shown again on a new line


class Echo:
    """Writes the changes of a typed line.

    The prompt of prompt_toolkit for such terminals shows only the last character of a change.
    cells: the columns that a text takes. prompt: what the line is typed after.
    """

    def __init__(
        self,
        write: Callable[[str], object],
        cells: Callable[[str], int],
        prompt: Callable[[], str] = lambda: TEXT_PROMPT,
    ) -> None:
        self._write = write
        self._cells = cells
        self._prompt = prompt
        self._shown = ""

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Within the block a line is typed."""
        self._shown = ""
        self._write(self._prompt())
        try:
            yield
        finally:
            self._write("\n")

    def show(self, text: str) -> None:
        """Change the line to `text`."""
        removed = self._shown.removeprefix(text)
        if text.startswith(self._shown):
            self._write(visible(text[len(self._shown) :]))
        elif self._shown.startswith(text) and len(removed) <= MOST_ERASED and "\n" not in removed:
            self._write(ERASE * self._cells(visible(removed)))
        else:
            self._write("\n" + self._prompt() + visible(text))
        self._shown = text
