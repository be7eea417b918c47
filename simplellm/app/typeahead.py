"""Typeahead: keys typed while no program reads them are not echoed and wait for the next reader."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
import time
from collections.abc import Iterator
from typing import IO, Any

from simplellm.app.dumb_terminal import is_dumb
from simplellm.app.pastes import PASTE_BEGIN, PASTE_END, as_paste
from simplellm.app.signals import suspend_hooks
from simplellm.training.clock import every

READ_SECONDS = 0.02  # between two reads; keys that follow each other faster are one burst
CHECK_SECONDS = 0.2
FULL_BYTES = 2048  # of the 4095 that Linux queues
MOST_BYTES = 1 << 26  # kept; no paste is longer
REPORT_PASTES = "\x1b[?2004h"  # the terminal marks both ends of a paste
REPORT_NO_PASTES = "\x1b[?2004l"


@contextlib.contextmanager
def keep_typeahead(terminal: IO[Any], for_prompt: bool = False) -> Iterator[None]:
    """Within the block, keys are neither echoed nor edited: the next reader gets them as typed.

    for_prompt=True keeps them for the chat prompt: Enter stays CR, because the prompt submits on
    CR and inserts a line end on Ctrl-J, and a paste stays one paste (see `EarlyKeys`).
    Ctrl-C, Ctrl-\\ and Ctrl-Z work as usual, and Ctrl-C discards what was typed before
    it, as in every program. Without a prompt, a shell gets what the queue of the terminal holds
    (some 4000 bytes), or nothing if more was typed.
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
                _set_modes(keyboard, for_prompt)
                if for_prompt:
                    report_pastes(True)

    def restore() -> None:
        with contextlib.suppress(OSError, termios.error):
            if saved and _is_foreground(keyboard):
                termios.tcsetattr(keyboard, termios.TCSANOW, saved)
                if for_prompt:
                    report_pastes(False)

    with suspend_hooks(restore, disable_echo):
        try:
            disable_echo()
            with early_keys.watched(keyboard, for_prompt):
                yield
        finally:
            restore()


def _set_modes(keyboard: int, for_prompt: bool) -> None:
    """No echo, no editing of lines; for the prompt, Enter is CR."""
    import termios

    modes = termios.tcgetattr(keyboard)
    modes[0] &= ~termios.ICRNL if for_prompt else ~0
    modes[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON)
    modes[6][termios.VMIN] = 1
    modes[6][termios.VTIME] = 0
    # TCSAFLUSH would discard what was typed
    termios.tcsetattr(keyboard, termios.TCSANOW, modes)


def report_pastes(enabled: bool) -> None:
    """Let the terminal mark pastes (bracketed paste), as prompt_toolkit does at its prompt.

    Written past the buffer of standard output: Ctrl-Z may arrive while that is being flushed.
    """
    if not is_dumb():
        with contextlib.suppress(OSError, ValueError):  # closed
            os.write(sys.stdout.fileno(), (REPORT_PASTES if enabled else REPORT_NO_PASTES).encode())


class EarlyKeys:
    """Takes keys out of the queue of a terminal before the prompt reads them.

    For a prompt, all keys are taken as they arrive: a paste into a terminal that does not mark
    pastes is recognised by several lines that arrive at once. For a shell, keys are taken only
    from a queue that is nearly full: Linux reads no further key while the queue is full, so that
    it would not notice Ctrl-C.
    """

    def __init__(self) -> None:
        self._kept = bytearray()
        self._burst = bytearray()  # the last kept keys, while more may follow at once
        self._is_cut = False
        self._keyboard: int | None = None
        self._reading = threading.Lock()

    @contextlib.contextmanager
    def watched(self, keyboard: int, for_prompt: bool) -> Iterator[None]:
        """Take keys within the block. A nested block does nothing more."""
        if self._keyboard is not None:
            yield
            return
        self._keyboard = keyboard
        seconds, take = (
            (READ_SECONDS, self._follow) if for_prompt else (CHECK_SECONDS, self._relieve)
        )
        try:
            with every(seconds, take):
                yield
        finally:
            if self._kept:
                self._read_all()
            self._keyboard = None
            self.discard()

    @property
    def are_watched(self) -> bool:
        return self._keyboard is not None

    def reading(self) -> threading.Lock:
        """The lock that the reader of the keyboard holds."""
        return self._reading

    def taken(self) -> bytes:
        """The keys so far, with marks around each paste. The caller holds `reading`.

        Waits for the end of a paste that is arriving.
        """
        while self._read_all() or self._burst:
            time.sleep(READ_SECONDS)
            if not self._read_all():
                self._end_burst()
        typed = bytes(self._kept)
        if self._is_cut and self._is_in_paste():
            typed += PASTE_END
        self.discard()
        return typed

    def discard(self) -> None:
        """Forget the kept keys. Ctrl-C does the same with the keys in the queue."""
        self._kept.clear()
        self._burst.clear()
        self._is_cut = False

    def _follow(self) -> None:
        with self._reading:
            if not self._read_all():
                self._end_burst()

    def _relieve(self) -> None:
        with self._reading:
            if _n_waiting(self._keyboard) >= FULL_BYTES:
                self._read_all()

    def _end_burst(self) -> None:
        burst = bytes(self._burst)
        self._burst.clear()
        self._kept += burst if self._is_in_paste() else as_paste(burst)

    def _is_in_paste(self) -> bool:
        """Whether the kept keys end within a paste that the terminal has marked."""
        return self._kept.rfind(PASTE_BEGIN) > self._kept.rfind(PASTE_END)

    def _read_all(self) -> bool:
        """Move the keys of the queue to the burst; whether there were any."""
        keyboard = self._keyboard
        has_read = False
        with contextlib.suppress(OSError):
            while (
                keyboard is not None
                and _is_foreground(keyboard)
                and select.select([keyboard], [], [], 0)[0]
            ):
                data = os.read(keyboard, FULL_BYTES)
                if not data:  # the terminal is closed
                    break
                room = MOST_BYTES - len(self._kept) - len(self._burst)
                self._burst += data[:room]
                self._is_cut |= len(data) > room
                has_read = True
        return has_read


early_keys = EarlyKeys()  # a process has one keyboard


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
