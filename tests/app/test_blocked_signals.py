"""A signal ends the program also while a library call keeps Python from running its handler."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from conftest import posix_only

# A second lock of a mutex waits for ever, and no signal interrupts it.
SCRIPT = """
import ctypes, signal, sys, threading
from simplellm.app.blocked_signals import blocked_signals_end_the_program
from simplellm.app.interrupt import grace
grace.seconds = 0.5
signal.signal(signal.SIGTERM, lambda *_: sys.exit(99))
with blocked_signals_end_the_program([signal.SIGTERM, signal.SIGINT]):
    threading.Timer(0.2, print, ["ready"], {"flush": True}).start()  # once it waits
    if sys.argv[1] == "blocked":
        mutex = ctypes.create_string_buffer(128)
        for _ in range(2):
            ctypes.CDLL(None).pthread_mutex_lock(mutex)
    threading.Event().wait()
"""


@posix_only
@pytest.mark.parametrize(
    ("state", "number", "code"),
    [
        ("blocked", signal.SIGTERM, 143),
        ("blocked", signal.SIGINT, 130),
        ("waiting", signal.SIGTERM, 99),  # the handler ran
    ],
)
def test_a_signal_ends_a_blocked_program_and_else_is_handled(
    state: str, number: int, code: int
) -> None:
    command = [sys.executable, "-c", SCRIPT, state]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        process.send_signal(number)
        assert process.wait(timeout=30) == code
