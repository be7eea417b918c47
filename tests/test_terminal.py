"""The chat on a real terminal: what a person sees, and what the keys do."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pyte
import pytest
from conftest import ROOT

SECONDS_TO_START = 60  # torch is imported; a busy machine may take long
SECONDS_TO_ANSWER = 10


class Terminal:
    """A pty with a program in it, and the screen a person would see."""

    def __init__(self, folder: Path, state: Path, columns: int, env: dict[str, str]) -> None:
        self.screen = pyte.HistoryScreen(columns, 40, history=1000)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
        arguments = ["-m", "simplellm", "chat", "--checkpoints", str(folder), "--run", "tiny", "--max-new-tokens", "100000",
                     "--seed", "7"]  # fmt: skip
        self.child = pexpect.spawn(
            sys.executable, arguments, cwd=str(ROOT), dimensions=(40, columns), timeout=SECONDS_TO_START,
            env={**environment, "XDG_STATE_HOME": str(state), "TERM": "xterm-256color", "OMP_NUM_THREADS": "1", **env},
        )  # fmt: skip

    def wait(self, is_seen: Callable[[], bool], seconds: float) -> None:
        """Read until `is_seen`; fails, with the screen, when that takes longer or the program has ended."""
        ends_at = time.perf_counter() + seconds
        while not is_seen():
            assert time.perf_counter() < ends_at and self.child.isalive(), f"never seen:\n{self.text}\n{self.raw[-2000:]!r}"
            self.read(0.02)

    def see(self, text: str) -> None:
        self.wait(lambda: text in self.text, SECONDS_TO_ANSWER)

    def ready(self) -> None:
        """Wait for a prompt in the cursor's line."""
        self.wait(lambda: self.screen.display[self.screen.cursor.y].startswith("> "), SECONDS_TO_START)

    def read(self, seconds: float) -> None:
        """Take what comes for at most `seconds`; answers the terminal's only question, where the cursor is."""
        try:
            data = self.child.read_nonblocking(65536, timeout=seconds)
        except (pexpect.TIMEOUT, pexpect.EOF):
            return
        self.raw += data
        self.stream.feed(data)
        if b"\x1b[6n" in data:
            self.child.send(f"\x1b[{self.screen.cursor.y + 1};{self.screen.cursor.x + 1}R")

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display)

    def exit_code(self) -> int:
        started_at = time.perf_counter()
        while self.child.isalive() and time.perf_counter() - started_at < SECONDS_TO_ANSWER:
            self.read(0.05)
        self.child.close()
        return self.child.exitstatus if self.child.exitstatus is not None else -self.child.signalstatus


@pytest.fixture
def open_terminal(trained: Path, tmp_path: Path) -> Iterator:
    opened: list[Terminal] = []

    def open_terminal(columns: int = 100, **env: str) -> Terminal:
        opened.append(Terminal(trained, tmp_path, columns, env))
        return opened[-1]

    yield open_terminal
    for terminal in opened:
        terminal.child.close(force=True)


def test_a_conversation_with_keys(open_terminal):
    terminal = open_terminal()
    terminal.ready()
    terminal.see("temp 0.8")  # the toolbar
    assert "/help" in terminal.text  # the welcome
    terminal.child.send("/tokens\r")
    terminal.see("max_new_tokens 100000")
    terminal.ready()

    terminal.child.send("typed in vain\x03")  # Ctrl-C clears the line
    terminal.child.send("The judge\r")
    terminal.wait(lambda: len(terminal.text.split("The judge")[-1]) > 60, SECONDS_TO_ANSWER)
    pressed_at = time.perf_counter()
    terminal.child.send("\x03")  # Ctrl-C ends the reply, not the program
    terminal.see("interrupted")
    assert time.perf_counter() - pressed_at < 2.0  # 0.3 is the bar on an idle machine
    terminal.ready()
    assert "seed 7, interrupted" in terminal.text and "tokens/s" in terminal.text
    assert "typed in vain" not in terminal.text.split("The judge")[-1]

    terminal.child.send("\x03")  # on an empty line it only gives a hint
    terminal.see("Ctrl-D leaves, /help")
    terminal.ready()
    terminal.child.send("/help\r")
    terminal.see("/penalty")
    terminal.ready()
    terminal.child.send("\x04")
    assert terminal.exit_code() == 0


def test_quit_leaves_and_no_color_has_none(open_terminal):
    terminal = open_terminal(NO_COLOR="1")
    terminal.ready()
    terminal.child.send("/tokens 5\r")
    terminal.see("max_new_tokens 5")
    terminal.ready()
    before = len(terminal.raw)
    terminal.child.send("The judge\r")
    terminal.see("5 tokens,")
    terminal.ready()
    reply = terminal.raw[before:]
    assert not any(f"\x1b[{code}m".encode() in reply for code in range(30, 38))
    terminal.child.send("quit\r")
    assert terminal.exit_code() == 0


def test_a_narrow_dumb_terminal_is_readable(open_terminal):
    terminal = open_terminal(columns=20, TERM="dumb")
    terminal.ready()
    terminal.child.send("/tokens 30\r")
    terminal.see("max_new_tokens 30")
    before = len(terminal.raw)
    terminal.child.send("The judge\r")
    terminal.see("length")
    reply = terminal.raw[before:].decode("utf-8", "replace")
    assert "\x1b[3" not in reply and reply.count("tokens/s") == 1
    terminal.child.send("/quit\r")
    assert terminal.exit_code() == 0
