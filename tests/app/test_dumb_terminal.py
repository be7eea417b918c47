"""Terminals without escape sequences, and terminals that do not report their cursor."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import STORY, TINY_FLAGS, posix_only
from program import QUICK_CONSTANTS, SIMPLELLM, environment
from rich.cells import cell_len
from terminal import Key, Terminal

from simplellm.app.dumb_prompt import Echo
from simplellm.app.dumb_terminal import name_dumb_terminal

SECONDS_FOR_CPR = 2.0  # that prompt_toolkit waits for the position of the cursor
ALL = """
import importlib, json, sys
from simplellm.app.cli import main
for path, value in json.loads(sys.argv[2]).items():
    module, _, name = path.rpartition(".")
    setattr(importlib.import_module(module), name, value)
print("ends", sum(main(arguments) for arguments in json.loads(sys.argv[1])))
"""
Open = Callable[..., Terminal]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Open]:
    opened: list[Terminal] = []

    def start(*command: str, **env: str) -> Terminal:
        opened.append(Terminal(command, environment(XDG_STATE_HOME=str(tmp_path), **env)))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()


def chat(folder: Path) -> list[str]:
    flags = ["--checkpoints", str(folder), "--run", "tiny", "--max-new-tokens", "5"]
    return [*SIMPLELLM, "chat", *flags]


@pytest.mark.parametrize("term", ["", pytest.param("dumb", marks=pytest.mark.slow)])
def test_a_chat_without_escape_sequences(start: Open, trained: Path, term: str) -> None:
    terminal = start(*chat(trained), TERM=term)
    terminal.ready()
    terminal.press("The fudge")
    terminal.press("\x7f" * 5)
    terminal.press("judge")
    terminal.see("> The judge")
    terminal.press(Key.ENTER)
    terminal.see("5 tokens,")
    terminal.ready()
    terminal.paste("first\n/quit\nthird")
    terminal.see("> first\n/quit\nthird")
    terminal.press(Key.ENTER)
    terminal.wait(lambda: terminal.text.count("5 tokens,") == 2)
    terminal.ready()
    for line in (
        "/probs on", "Jack", "/next Jack", "/probs", "/attn", "/attn 1.2 matrix", "/tokenize 한글",
        "/compare 0.5,1", "/runs", "/help", "/tokens 100000",
    ):  # fmt: skip
        before = len(terminal.raw)
        terminal.press(line + Key.ENTER)
        terminal.wait(lambda: b"\n> " in terminal.raw[before:])  # noqa: B023 (called at once)
    before = len(terminal.raw)
    terminal.press("The judge" + Key.ENTER)
    terminal.wait(lambda: len(terminal.raw) > before + 200)
    terminal.press("early")
    terminal.press(Key.CTRL_C)
    terminal.see("interrupted")
    terminal.press("/quit" + Key.ENTER)
    assert terminal.exit_code() == 0
    assert b"\x1b" not in terminal.raw and b"WARNING" not in terminal.raw


def test_commands_without_escape_sequences(start: Open, trained: Path, tmp_path: Path) -> None:
    run = ["--checkpoints", str(trained), "--run", "tiny"]
    own = ["--checkpoints", str(tmp_path)]
    commands = [
        ["train", str(STORY), "--name", "a", "--max-steps", "4", *TINY_FLAGS, *own],
        ["runs", *own],
        ["verify", "--run", "a", *own],
        ["generate", "--prompt", "The judge ", "--probs", "--max-new-tokens", "3", *run],
        ["analyze", "--prompt", "The judge", *run],
        ["evaluate", "--data", str(STORY), *run],
        ["sweep", str(STORY), "--seed", "1,2", "--max-steps", "1", *TINY_FLAGS, *own],
        ["train", str(STORY), "--find-lr", *TINY_FLAGS, *own],
        ["runs", "a", "sweep-the-verdict-seed-1", *own],
        ["runs", "--prune", "--yes", *own],
        ["export", "--run", "a", "--format", "hf", "--out", str(tmp_path / "exported"), *own],
        ["import", str(tmp_path / "exported"), "--name", "imported", *own],
        ["bench", "generate", "--max-new-tokens", "4", *TINY_FLAGS],
        ["--help"],
        ["no-command"],
    ]
    words = [json.dumps(commands), json.dumps(QUICK_CONSTANTS)]
    terminal = start(sys.executable, "-c", ALL, *words, TERM="")
    terminal.wait(lambda: b"ends 2" in terminal.raw)
    assert b"bits/byte" in terminal.raw and b"\x1b" not in terminal.raw


def test_a_terminal_that_does_not_report_its_cursor_gets_no_warning(
    start: Open, trained: Path
) -> None:
    terminal = start(*chat(trained))
    terminal.screen.write_process_input = lambda report: None
    terminal.ready()
    ends_at = time.perf_counter() + SECONDS_FOR_CPR + 0.5
    while time.perf_counter() < ends_at:
        terminal.read(0.1)
    terminal.press("The judge" + Key.ENTER)
    terminal.see("5 tokens,")
    terminal.ready()
    assert b"\x1b[6n" in terminal.raw and b"CPR" not in terminal.raw
    terminal.press("/quit" + Key.ENTER)
    assert terminal.exit_code() == 0


@posix_only
@pytest.mark.parametrize(
    ("term", "expected"),
    [(None, "dumb"), ("", "dumb"), ("unknown", "dumb"), ("dumb", "dumb"), ("xterm", "xterm")],
)
def test_a_terminal_without_a_name_is_dumb(term: str | None, expected: str) -> None:
    variables = {} if term is None else {"TERM": term}
    name_dumb_terminal(variables)
    assert variables == {"TERM": expected}


def test_a_typed_line_is_shown_with_its_changes() -> None:
    written: list[str] = []
    echo = Echo(written.append, cell_len)
    with echo.shown():
        for text in ("a", "ab한", "ab", "", "one\x1b\ntwo", "other"):
            echo.show(text)
    assert written == [
        "> ", "a", "b한", "\b \b" * 2, "\b \b" * 2, "one␛\ntwo", "\n> other", "\n",
    ]  # fmt: skip
