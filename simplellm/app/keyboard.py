"""Typing ahead: keys pressed while nothing reads them are not echoed, and wait in the terminal for the next reader."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import IO, Any

from simplellm.training.clock import every

LOOK_SECONDS = 0.2
FULL_BYTES = 2048  # of the 4095 that Linux queues
MOST_BYTES = 1 << 16  # kept; more is no typing, and a prompt would take long to read it


@contextlib.contextmanager
def typed_ahead_waits(terminal: IO[Any], for_prompt: bool = False) -> Iterator[None]:
    """Within the block keys typed at `terminal` are neither echoed nor edited by it: the next reader gets them as typed.

    for_prompt=True also leaves Enter as CR, which the prompt of the chat sends on; Ctrl-J begins a new line there.
    Ctrl-C, Ctrl-\\ and Ctrl-Z work as always, and Ctrl-C discards what was typed before it, as in every program. A shell
    gets what the terminal's queue holds (some 4000 bytes), or nothing where more was typed.
    No effect without a POSIX terminal, and none while the process is in the background.
    """
    keyboard = _descriptor(terminal)
    if keyboard is None:
        yield
        return
    import termios

    before: list[Any] = []

    def be_quiet() -> None:
        with contextlib.suppress(
            OSError, termios.error
        ):  # the terminal is gone, or not the one that controls us
            if _is_foreground(keyboard):
                before[:] = before or termios.tcgetattr(keyboard)
                quiet = termios.tcgetattr(keyboard)
                quiet[0] &= ~termios.ICRNL if for_prompt else ~0
                quiet[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON)
                quiet[6][termios.VMIN], quiet[6][termios.VTIME] = 1, 0
                termios.tcsetattr(
                    keyboard, termios.TCSANOW, quiet
                )  # TCSAFLUSH would discard what was typed

    def restore() -> None:
        with contextlib.suppress(OSError, termios.error):
            if before and _is_foreground(keyboard):
                termios.tcsetattr(keyboard, termios.TCSANOW, before)

    with around_stops(restore, be_quiet):
        try:
            be_quiet()
            with overflow.watched(keyboard):
                yield
        finally:
            restore()


class Overflow:
    """Takes keys out of a terminal's queue that is getting full, and keeps them for the prompt.

    While its queue is full Linux looks at no further key: Ctrl-C would not be seen.
    """

    def __init__(self) -> None:
        self._kept = bytearray()
        self._keyboard: int | None = None
        self._reading = threading.Lock()

    @contextlib.contextmanager
    def watched(self, keyboard: int) -> Iterator[None]:
        """Look at the queue from time to time. In a block within this one nothing more is done."""
        if self._keyboard is not None:
            yield
            return
        self._keyboard = keyboard
        try:
            with every(LOOK_SECONDS, self._relieve):
                yield
        finally:
            if self._kept:
                self._read_all()
            self._keyboard = None
            self.discard()

    def reading(self) -> threading.Lock:
        """Held by whoever reads the keyboard."""
        return self._reading

    def taken(self) -> bytes:
        """What was kept, and what waits behind it. For the thread that holds `reading`."""
        if self._kept:
            self._read_all()
        typed = bytes(self._kept)
        self.discard()
        return typed

    def discard(self) -> None:
        """Forget what was kept: Ctrl-C does so with what is in the queue."""
        self._kept.clear()

    def _relieve(self) -> None:
        with self._reading:
            if _n_waiting(self._keyboard) >= FULL_BYTES:
                self._read_all()

    def _read_all(self) -> None:
        keyboard = self._keyboard
        with contextlib.suppress(OSError):
            while (
                keyboard is not None
                and _is_foreground(keyboard)
                and select.select([keyboard], [], [], 0)[0]
            ):
                data = os.read(keyboard, FULL_BYTES)
                if not data:  # the terminal is gone
                    return
                self._kept += data[: MOST_BYTES - len(self._kept)]


overflow = Overflow()  # one keyboard, one queue


@contextlib.contextmanager
def around_stops(leave: Callable[[], None], back: Callable[[], None]) -> Iterator[None]:
    """Within the block `leave` is called before Ctrl-Z stops the process, and `back` when it continues. Blocks nest.

    Shells set modes of their own when a process stops, so `back` is also called after a SIGSTOP.
    """
    if not hasattr(signal, "SIGTSTP") or threading.current_thread() is not threading.main_thread():
        yield
        return
    on_stop, on_continue = signal.getsignal(signal.SIGTSTP), signal.getsignal(signal.SIGCONT)

    def stop(number: int, frame: FrameType | None) -> None:
        leave()
        if callable(on_stop):
            on_stop(number, frame)
        else:
            _stop_here()
        back()

    def go_on(number: int, frame: FrameType | None) -> None:
        if callable(on_continue):
            on_continue(number, frame)
        back()

    if on_stop is not signal.SIG_IGN:
        signal.signal(signal.SIGTSTP, stop)
    signal.signal(signal.SIGCONT, go_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, on_stop)
        signal.signal(signal.SIGCONT, on_continue)


@contextlib.contextmanager
def held_back(*names: str) -> Iterator[None]:
    """Signals of these names that arrive within the block are handled after it; a second one of a kind is handled at once."""
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    arrived: list[int] = []
    before: dict[int, Any] = {}

    def remember(number: int, frame: FrameType | None) -> None:
        handle = before.get(number)
        if number in arrived and callable(handle):
            handle(number, frame)
        arrived.append(number)

    try:
        for number in numbers:
            before[number] = signal.getsignal(number)
            signal.signal(number, remember)
        yield
    finally:
        for number, handle in before.items():
            signal.signal(number, handle)
        for number in dict.fromkeys(arrived):
            signal.raise_signal(number)


def _stop_here() -> None:
    """Stop as without a handler; returns when the process continues."""
    handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    signal.raise_signal(signal.SIGTSTP)
    signal.signal(signal.SIGTSTP, handler)


def _n_waiting(keyboard: int | None) -> int:
    """Bytes in the queue of a terminal."""
    import fcntl
    import termios

    with contextlib.suppress(OSError):
        if keyboard is not None and _is_foreground(keyboard):
            return int.from_bytes(fcntl.ioctl(keyboard, termios.FIONREAD, bytes(4)), sys.byteorder)
    return 0


def _is_foreground(keyboard: int) -> bool:
    """Whether the terminal is ours to set: from the background that would stop the process (SIGTTOU)."""
    return os.tcgetpgrp(keyboard) == os.getpgrp()


def _descriptor(terminal: IO[Any]) -> int | None:
    """The file descriptor of a POSIX terminal; None for anything else."""
    try:
        import termios  # noqa: F401  not on Windows

        descriptor = terminal.fileno()
    except (ImportError, AttributeError, OSError, ValueError):
        return None
    return descriptor if os.isatty(descriptor) else None
