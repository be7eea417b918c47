"""A real pseudo-terminal that runs a program, and the screen that a user would see."""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from unicodedata import combining

import pytest
from conftest import ROOT
from fork_server import ForkedProcess
from program import fork_server
from wcwidth import wcwidth

try:
    import fcntl
    import termios
except ImportError:
    pytest.skip("this system has no pseudo-terminals", allow_module_level=True)
import pyte  # noqa: E402 (needs termios)

SECONDS_TO_START = 120  # the import of torch takes long on a busy machine
SECONDS_TO_ANSWER = 60
SECONDS_TO_HANG_UP = 5
SECONDS_TO_LOOK_AGAIN = 0.05  # at what changes without output, such as a file
PASTE_BEGINS, PASTE_ENDS = "\x1b[200~", "\x1b[201~"
MARKS_PASTES = 2004 << 5  # the number of the mode in pyte


def initial_modes() -> list:
    """The attributes of a new terminal, before a program changes them."""
    primary, secondary = os.openpty()
    try:
        return termios.tcgetattr(primary)
    finally:
        os.close(primary)
        os.close(secondary)


def set_size(terminal: int, size: tuple[int, int]) -> None:
    """Set rows and columns of a terminal, whose program gets SIGWINCH."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))


class Key:
    ENTER, TAB, UP, LEFT = "\r", "\t", "\x1b[A", "\x1b[D"
    CTRL_C, CTRL_D, CTRL_L, CTRL_R, CTRL_U, CTRL_Z = "\x03", "\x04", "\x0c", "\x12", "\x15", "\x1a"


def drawable(text: str) -> str:
    """Remove zero-width characters, such as joiners: pyte drops all text after them."""
    if text.isascii():
        return text
    return "".join(
        character
        for character in text
        if character < " " or wcwidth(character) > 0 or combining(character)
    )


class Terminal:
    """Runs `command`; its output is in `raw` as bytes and on `screen` as a terminal shows it."""

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], columns: int = 100, rows: int = 40
    ) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=100_000, ratio=0.5)
        self.stream = pyte.Stream(self.screen)
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.raw = b""
        self.primary, self.process = self._start(command, env, (rows, columns))
        self.screen.write_process_input = self.press  # answers queries of the cursor position

    @staticmethod
    def _start(
        command: Sequence[str], env: Mapping[str, str], size: tuple[int, int]
    ) -> tuple[int, subprocess.Popen[bytes] | ForkedProcess]:
        """The primary side of a new terminal, and the process whose terminal it is."""
        primary, secondary = os.openpty()
        set_size(secondary, size)
        streams = (secondary, secondary, secondary)
        process: subprocess.Popen[bytes] | ForkedProcess
        if fork_server().can_start(command, env):
            process = fork_server().start(command, env, ROOT, streams, is_terminal=True)
        else:
            process = subprocess.Popen(
                command, stdin=secondary, stdout=secondary, stderr=secondary, cwd=ROOT, env=env,
                start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            )  # fmt: skip
        os.close(secondary)
        return primary, process

    def press(self, keys: str | bytes) -> None:
        data = keys.encode() if isinstance(keys, str) else keys
        while data:
            data = data[os.write(self.primary, data) :]

    def paste(self, text: str) -> None:
        """Send text as a terminal does: between marks if the program has asked for them.

        Reads meanwhile: a long paste would block otherwise.
        """
        keys = text.replace("\n", "\r")
        if self.marks_pastes:
            keys = PASTE_BEGINS + keys + PASTE_ENDS
        writer = threading.Thread(target=self.press, args=(keys,))
        writer.start()
        while writer.is_alive():
            self.read(0.05)

    def read(self, seconds: float) -> bool:
        """Read output, waiting at most `seconds` for it; whether there was any."""
        if not select.select([self.primary], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self.primary, 65536)
        except OSError:  # no program has the terminal open
            return False
        self.raw += data
        self.stream.feed(drawable(self.decoder.decode(data)))
        return True

    def wait(self, is_seen: Callable[[], object], seconds: float = SECONDS_TO_ANSWER) -> float:
        """Read until `is_seen()`; the seconds it took.

        Fails, showing the screen, after `seconds` or at the end of the program.
        """
        started_at = time.perf_counter()
        while not is_seen():
            is_open = self.is_alive or self.read(0)
            in_time = time.perf_counter() - started_at < seconds
            assert is_open and in_time, f"never seen:\n{self.text}\n{self.raw[-2000:]!r}"
            self.read(SECONDS_TO_LOOK_AGAIN)
        return time.perf_counter() - started_at

    def see(self, text: str, seconds: float = SECONDS_TO_ANSWER) -> float:
        return self.wait(lambda: text in self.text, seconds)

    def ready(self, prompt: str = "> ", seconds: float = SECONDS_TO_START) -> float:
        """Wait for an empty prompt in the line of the cursor."""
        return self.wait(lambda: self.cursor_line == prompt.rstrip(), seconds)

    def settle(self, seconds: float = 0.2) -> None:
        """Read until there is no more output."""
        while self.read(seconds):
            pass

    def clear(self) -> None:
        """Clear the screen and forget the output so far."""
        self.press(Key.CTRL_L)
        self.settle(0.03)
        self.screen.history.top.clear()
        self.raw = b""

    def resize(self, columns: int, rows: int = 40) -> None:
        self.screen.resize(rows, columns)
        set_size(self.primary, (rows, columns))

    @property
    def marks_pastes(self) -> bool:
        """Whether the program has asked for marks around pastes."""
        return MARKS_PASTES in self.screen.mode

    def _shown(self, line: Mapping[int, pyte.screens.Char]) -> str:
        """The text of a line; the cell after a wide character is empty.

        `display` of pyte measures each character, which takes ten times as long.
        """
        return "".join([line[x].data for x in range(self.screen.columns)]).rstrip()

    @property
    def cursor_line(self) -> str:
        return self._shown(self.screen.buffer[self.screen.cursor.y])

    @property
    def text(self) -> str:
        return "\n".join(self._shown(self.screen.buffer[y]) for y in range(self.screen.lines))

    @property
    def everything(self) -> str:
        """The screen and what has scrolled off its top."""
        return "\n".join([*map(self._shown, self.screen.history.top), self.text])

    @property
    def modes(self) -> list:
        """The attributes of the terminal, as shown by `stty -a`."""
        return termios.tcgetattr(self.primary)

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def exit_code(self) -> int:
        """The exit code, or minus the number of the signal that ended the program."""
        self.wait_for_end()
        return self.process.wait(SECONDS_TO_ANSWER)

    def wait_for_end(self, seconds: float = SECONDS_TO_ANSWER) -> None:
        started_at = time.perf_counter()
        while time.perf_counter() - started_at < seconds and (self.read(0.05) or self.is_alive):
            pass

    def close(self) -> None:
        """Hang up, and end a program that goes on nevertheless."""
        with contextlib.suppress(OSError):
            os.close(self.primary)
        try:
            self.process.wait(SECONDS_TO_HANG_UP)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
