"""Signals during a training: the first stops it after the current step, a second Ctrl-C at once.

Until the training asks for the first time, before its first step, each signal ends the program.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from simplellm.app.typeahead import early_keys

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # a closed window: SIGHUP, on Windows SIGBREAK
BLOCKED_SECONDS = 2.0  # in a call of a library, while a signal would end the program anyway
PEER_SECONDS = 20.0  # during a step; torchrun kills 30 s after SIGTERM
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


class Grace:
    """How long a signal may stay unhandled before it ends the program; None: without limit."""

    def __init__(self) -> None:
        self.seconds: float | None = BLOCKED_SECONDS


grace = Grace()


class Interrupt:
    """Within the block, signals are remembered once `is_set` has been called.

    has_peers: other processes take part. One that hangs would block this process for hours.
    """

    def __init__(self, has_peers: bool = False) -> None:
        self._grace_seconds = PEER_SECONDS if has_peers else None
        self._first: int | None = None
        self._is_asked = False
        self._handlers: dict[int, Any] = {}

    def is_set(self) -> bool:
        if not self._is_asked:
            self._is_asked = True
            grace.seconds = self._grace_seconds
        return self._first is not None

    @property
    def exit_code(self) -> int:
        """0 without a signal, else 128 + its number, as in shells."""
        return 0 if self._first is None else 128 + self._first

    def __enter__(self) -> Interrupt:
        self._handlers = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        grace.seconds = BLOCKED_SECONDS
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            early_keys.discard()
        if number == signal.SIGINT and (self._first is not None or not self._is_asked):
            raise KeyboardInterrupt
        if not self._is_asked:
            raise SystemExit(128 + number)
        self._first = self._first or number
