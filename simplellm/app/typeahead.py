"""Typeahead: keys typed while no program reads them are not echoed and wait for the next reader."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
from collections.abc import Iterator
from typing import IO, Any

from simplellm.app.signals import suspend_hooks
from simplellm.training.clock import every

CHECK_SECONDS = 0.2
FULL_BYTES = 2048  # of the 4095 that Linux queues
MOST_BYTES = 1 << 16  # kept; nobody types more, and a prompt would take long to read it


@contextlib.contextmanager
def keep_typeahead(terminal: IO[Any], for_prompt: bool = False) -> Iterator[None]:
    """Within the block, keys are neither echoed nor edited: the next reader gets them as typed.

    for_prompt=True also leaves Enter as CR: the chat prompt submits on CR and inserts a line end
    on Ctrl-J. Ctrl-C, Ctrl-\\ and Ctrl-Z work as usual, and Ctrl-C discards what was typed before
    it, as in every program. A shell gets what the queue of the terminal holds (some 4000 bytes),
    or nothing if more was typed.
    No effect without a POSIX terminal, and none while the process is in the background.
    """
    keyboard = _descriptor(terminal)
    if keyboard is None:
        yield
        return
    import termios

    saved: list[Any] = []

    def disable_echo() -> None:
        # suppressed: the terminal is closed, or it does not control this process
        with contextlib.suppress(OSError, termios.error):
            if _is_foreground(keyboard):
                saved[:] = saved or termios.tcgetattr(keyboard)
                modes = termios.tcgetattr(keyboard)
                modes[0] &= ~termios.ICRNL if for_prompt else ~0
                modes[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON)
                modes[6][termios.VMIN] = 1
                modes[6][termios.VTIME] = 0
                # TCSAFLUSH would discard what was typed
                termios.tcsetattr(keyboard, termios.TCSANOW, modes)

    def restore() -> None:
        with contextlib.suppress(OSError, termios.error):
            if saved and _is_foreground(keyboard):
                termios.tcsetattr(keyboard, termios.TCSANOW, saved)

    with suspend_hooks(restore, disable_echo):
        try:
            disable_echo()
            with overflow.watched(keyboard):
                yield
        finally:
            restore()


class Overflow:
    """Takes keys out of a terminal queue that is nearly full, and keeps them for the prompt.

    Linux reads no further key while the queue is full: it would not notice Ctrl-C.
    """

    def __init__(self) -> None:
        self._kept = bytearray()
        self._keyboard: int | None = None
        self._reading = threading.Lock()

    @contextlib.contextmanager
    def watched(self, keyboard: int) -> Iterator[None]:
        """Check the queue every CHECK_SECONDS. A nested block does nothing more."""
        if self._keyboard is not None:
            yield
            return
        self._keyboard = keyboard
        try:
            with every(CHECK_SECONDS, self._relieve):
                yield
        finally:
            if self._kept:
                self._read_all()
            self._keyboard = None
            self.discard()

    def reading(self) -> threading.Lock:
        """The lock that the reader of the keyboard holds."""
        return self._reading

    def taken(self) -> bytes:
        """The kept keys and those behind them in the queue. The caller holds `reading`."""
        if self._kept:
            self._read_all()
        typed = bytes(self._kept)
        self.discard()
        return typed

    def discard(self) -> None:
        """Forget the kept keys. Ctrl-C does the same with the keys in the queue."""
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
                if not data:  # the terminal is closed
                    return
                self._kept += data[: MOST_BYTES - len(self._kept)]


overflow = Overflow()  # a process has one keyboard


def _n_waiting(keyboard: int | None) -> int:
    """Bytes in the queue of a terminal."""
    import fcntl
    import termios

    with contextlib.suppress(OSError):
        if keyboard is not None and _is_foreground(keyboard):
            return int.from_bytes(fcntl.ioctl(keyboard, termios.FIONREAD, bytes(4)), sys.byteorder)
    return 0


def _is_foreground(keyboard: int) -> bool:
    """Whether this process may set the terminal: in the background that would stop it (SIGTTOU)."""
    return os.tcgetpgrp(keyboard) == os.getpgrp()


def _descriptor(terminal: IO[Any]) -> int | None:
    """The file descriptor of a POSIX terminal; None for anything else."""
    try:
        import termios  # noqa: F401  not on Windows

        descriptor = terminal.fileno()
    except (ImportError, AttributeError, OSError, ValueError):
        return None
    return descriptor if os.isatty(descriptor) else None
