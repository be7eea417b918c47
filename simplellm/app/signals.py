"""Signal handling around output: hooks for Ctrl-Z, and signals that are delayed."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any


@contextlib.contextmanager
def suspend_hooks(before: Callable[[], None], after: Callable[[], None]) -> Iterator[None]:
    """Within the block call `before` when Ctrl-Z stops the process, and `after` when it continues.

    Blocks can be nested. Shells change the terminal modes when a process stops, so `after` is also
    called after a SIGSTOP.
    """
    if not hasattr(signal, "SIGTSTP") or threading.current_thread() is not threading.main_thread():
        yield
        return
    outer_stop = signal.getsignal(signal.SIGTSTP)
    outer_continue = signal.getsignal(signal.SIGCONT)

    def stop(number: int, frame: FrameType | None) -> None:
        before()
        if callable(outer_stop):
            outer_stop(number, frame)
        else:
            _stop_process()
        after()

    def resume(number: int, frame: FrameType | None) -> None:
        if callable(outer_continue):
            outer_continue(number, frame)
        after()

    if outer_stop is not signal.SIG_IGN:
        signal.signal(signal.SIGTSTP, stop)
    signal.signal(signal.SIGCONT, resume)
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, outer_stop)
        signal.signal(signal.SIGCONT, outer_continue)


@contextlib.contextmanager
def delayed_signals(*names: str) -> Iterator[None]:
    """Signals of these names that arrive within the block are handled after it.

    A second signal of the same kind is handled at once.
    """
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    arrived: list[int] = []
    handlers: dict[int, Any] = {}

    def remember(number: int, frame: FrameType | None) -> None:
        handler = handlers.get(number)
        if number in arrived and callable(handler):
            handler(number, frame)
        arrived.append(number)

    try:
        for number in numbers:
            handlers[number] = signal.getsignal(number)
            signal.signal(number, remember)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in dict.fromkeys(arrived):
            signal.raise_signal(number)


def _stop_process() -> None:
    """Stop as if there were no handler; returns when the process continues."""
    handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    signal.raise_signal(signal.SIGTSTP)
    signal.signal(signal.SIGTSTP, handler)
