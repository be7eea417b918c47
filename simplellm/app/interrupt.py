"""Signals while training: the first asks to stop at the next step, a second Ctrl-C stops at once.

Nobody asks before the first step: until then each signal ends the program at once, as everywhere.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from simplellm.app.keyboard import overflow

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # a closed window: SIGHUP, on Windows SIGBREAK
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


class Interrupt:
    """Within the block signals are remembered, from when it is first asked for them, instead of ending the process."""

    def __init__(self) -> None:
        self._first: int | None = None
        self._is_asked = False
        self._before: dict[int, Any] = {}

    def is_set(self) -> bool:
        self._is_asked = True
        return self._first is not None

    @property
    def exit_code(self) -> int:
        """0, or 128 + the number of the signal, as shells have it."""
        return 0 if self._first is None else 128 + self._first

    def __enter__(self) -> Interrupt:
        self._before = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            overflow.discard()
        if number == signal.SIGINT and (self._first is not None or not self._is_asked):
            raise KeyboardInterrupt
        if not self._is_asked:
            raise SystemExit(128 + number)
        self._first = self._first or number
