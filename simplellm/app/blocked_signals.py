"""Signals that arrive while the main thread is inside a long call of a C++ library.

Python runs signal handlers in the main thread between bytecodes. A call that waits for another
process, or that computes for minutes, would delay SIGTERM until it returns.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from typing import Any

from simplellm.app.dumb_terminal import is_dumb
from simplellm.app.interrupt import grace
from simplellm.app.typeahead import REPORT_NO_PASTES

SHUTDOWN = 0  # no signal has this number
SHOW_CURSOR = "\x1b[?25h"


@contextlib.contextmanager
def blocked_signals_end_the_program(numbers: Collection[int]) -> Iterator[None]:
    """Within the block, a signal that the main thread does not handle ends the process.

    After `grace.seconds` it ends with exit code 128 + the signal number. Only the terminal is
    restored. No effect in a thread other than the main one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    watch = _Watch(reader, frozenset(numbers), _terminal_restorer())
    thread = threading.Thread(target=watch.run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        watch.end()
        with contextlib.suppress(OSError):
            writer.send(bytes([SHUTDOWN]))
        thread.join()
        reader.close()
        writer.close()


class _Watch:
    """Reads the numbers of the signals that Python's C handler has received."""

    def __init__(
        self, reader: socket.socket, numbers: frozenset[int], restore: Callable[[], None]
    ) -> None:
        self._reader = reader
        self._numbers = numbers
        self._restore = restore
        self._is_running = threading.Event()  # the main thread executes bytecodes
        self._is_over = False
        self._answer = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(self._set_running)

    def run(self) -> None:
        while SHUTDOWN not in (arrived := self._reader.recv(64)):
            number = next((byte for byte in arrived if byte in self._numbers), None)
            if number is not None and not self._is_handled():
                self._restore()
                os._exit(128 + number)

    def end(self) -> None:
        """Called by the main thread, which then waits for this one and executes no bytecodes."""
        self._is_over = True
        self._is_running.set()

    def _is_handled(self) -> bool:
        """Whether the main thread executes bytecodes within the grace time: then handlers run."""
        seconds = grace.seconds
        if seconds is None:
            return True
        self._is_running.clear()
        if self._is_over:
            return True
        ctypes.pythonapi.Py_AddPendingCall(self._answer, None)
        return self._is_running.wait(seconds)

    def _set_running(self, _: object) -> int:
        self._is_running.set()
        return 0


def _terminal_restorer() -> Callable[[], None]:
    """A function that gives the terminal its modes of now, and shows the cursor."""
    try:
        import termios
    except ImportError:  # Windows
        return lambda: None
    try:
        keyboard = sys.stdin.fileno()
        modes: list[Any] = termios.tcgetattr(keyboard)
    except (AttributeError, OSError, ValueError, termios.error):
        return lambda: None

    def restore() -> None:
        with contextlib.suppress(OSError, termios.error):
            termios.tcsetattr(keyboard, termios.TCSANOW, modes)
            if os.isatty(2) and not is_dumb():
                os.write(2, (SHOW_CURSOR + REPORT_NO_PASTES).encode())

    return restore
