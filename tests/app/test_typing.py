"""Keys typed during training: not echoed, kept for the next reader; terminal modes restored."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from program import SIMPLELLM, environment
from terminal import (
    PASTE_BEGINS,
    PASTE_ENDS,
    SECONDS_TO_START,
    Key,
    Terminal,
    initial_modes,
)

from simplellm.app.pastes import as_paste

TYPED = (
    "hello 안녕\x7f\x7f하늘" + Key.LEFT + "X" + Key.ENTER
)  # Backspace twice, then one to the left
LONG = "y" * 5000
GIVEN = {
    "n_layer": 1, "n_head": 1, "n_embd": 16, "block_size": 16, "vocab_size": 300, "batch_size": 4,
    "precision": "float32",
    "compile": "off", "max_steps": 150, "eval_interval": 50,
}  # fmt: skip
TALK = """
import json, sys
from dataclasses import replace
from simplellm.app import cli
from simplellm.app.subcommands import dispatch
settings, talk = json.loads(sys.argv[1]), dispatch.talk
dispatch.talk = lambda options: talk(replace(options, settings=settings))
raise SystemExit(cli.main(sys.argv[2:]))
"""
# The real command line around a training without a model and without torch, which starts fast.
FAKE = """
import contextlib, sys, time, types
from simplellm.app import cli, training_progress
from simplellm.app.interrupt import Interrupt, grace
from simplellm.app.screen import Screen

def train(options):
    screen, ending = Screen(), options.texts[0]
    with Interrupt() as interrupt, training_progress.TrainingProgress(screen) as progress:
        for number in range(1, 100_000):
            progress.write({"kind": "step", "step": number, "max_steps": 100_000, "epoch": 1.0,
                "loss": 3.0, "gradient_norm": 1.0, "learning_rate": 0.1, "tokens_per_second": 9.0,
                "tokens_per_step": 1, "memory_bytes": 1})
            if number == 40:
                assert ending != "defect", "as asked for"
                if ending == "end":
                    break
            if ending == "stuck":
                interrupt.is_set()
            elif interrupt.is_set():
                break
            time.sleep(0.01)
    screen.notice("over")
    return interrupt.exit_code

dispatch = types.SimpleNamespace(run_command=train)
sys.modules["simplellm.app.subcommands.dispatch"] = dispatch
training_progress.PANEL_SECONDS = 0.05
grace.seconds = 20.0  # a busy machine may not run this program for a second
cli.adapted_to_load = contextlib.nullcontext  # it imports torch
raise SystemExit(cli.main(sys.argv[1:]))
"""
Start = Callable[..., Terminal]


Command = Callable[[str], list[str]]


@pytest.fixture(scope="module")
def fake_training(tmp_path_factory: pytest.TempPathFactory) -> Command:
    script = tmp_path_factory.mktemp("fake") / "training.py"
    script.write_text(FAKE, encoding="utf-8")
    return lambda ending: [sys.executable, str(script), "train", ending]


@pytest.fixture
def start() -> Iterator[Start]:
    opened: list[Terminal] = []

    def start(command: list[str], rows: int = 30, **env: str) -> Terminal:
        opened.append(Terminal(command, environment(**env), rows=rows))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()


def n_panels(terminal: Terminal) -> int:
    return terminal.everything.count("─ training ─")


def test_keys_typed_during_training_reach_the_prompt_as_typed(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    terminal = start(
        [sys.executable, "-c", TALK, json.dumps(GIVEN), "--checkpoints", str(folder)],
        XDG_STATE_HOME=str(tmp_path),
    )
    terminal.see("no trained model", SECONDS_TO_START)
    terminal.press("early ")
    terminal.see("train loss")
    terminal.press(TYPED + LONG)
    terminal.wait(lambda: "bits/byte" in terminal.text)  # an evaluation later
    terminal.see("Ctrl-D quits")
    assert n_panels(terminal) <= 1
    before_the_chat = terminal.raw.partition(b"Ctrl-D quits")[0].decode()
    assert not any(word in before_the_chat for word in ("early", "hello", "yyy", "^[", "\x07"))
    terminal.see("early hello 하X늘")
    terminal.see(", length")  # the reply to the line, which was sent
    terminal.wait(
        lambda: (
            terminal.cursor_line.count("y") == 5000 % 98
            or terminal.everything.count("y" * 98) >= 51
        )
    )
    terminal.settle()  # fewer lines may end with as many
    terminal.press(Key.CTRL_C)
    terminal.ready()
    terminal.press(Key.UP)
    terminal.see("> early hello 하X늘")  # the history has the line that was sent
    terminal.press(Key.CTRL_C + Key.CTRL_D)
    assert terminal.exit_code() == 0


@pytest.mark.parametrize("with_marks", [True, False])
def test_a_paste_while_the_program_loads_is_one_message(
    start: Start, trained: Path, tmp_path: Path, with_marks: bool
) -> None:
    terminal = start(
        [*SIMPLELLM, "chat", "--checkpoints", str(trained), "--max-new-tokens", "3"],
        XDG_STATE_HOME=str(tmp_path),
    )
    terminal.wait(lambda: terminal.marks_pastes, SECONDS_TO_START)
    assert "Ctrl-D quits" not in terminal.text  # it loads
    if with_marks:
        terminal.paste("/temp 0.1\n/quit\nthird\n")
    else:
        terminal.press("/temp 0.1\r/quit\rthird\r")
    terminal.see("third", SECONDS_TO_START)
    terminal.settle()
    assert "> /temp 0.1\n  /quit\n  third" in terminal.text
    assert "temperature 0.1" not in terminal.text
    terminal.press(Key.CTRL_C + Key.CTRL_D)
    assert terminal.exit_code() == 0 and not terminal.marks_pastes


@pytest.mark.parametrize(
    ("burst", "expected"),
    [
        ("a line\r", False),
        ("a line\r\r\r", False),  # Enter held down
        ("a\rb", False),  # keys that a busy machine reads late
        ("first\rsecond", True),
        ("  first\n\n\tsecond\n", True),
        ("첫째\r둘째\r", True),
        ("first\r/quit\r", True),
        (Key.UP + "\r" + "second", False),  # keys
        ("typed\x7f\rsecond", False),
        (PASTE_BEGINS + "first\rsecond" + PASTE_ENDS, False),  # has its marks
        ("", False),
    ],
)
def test_several_lines_at_once_are_a_paste(burst: str, expected: bool) -> None:
    with_marks = (PASTE_BEGINS + burst + PASTE_ENDS).encode()
    assert as_paste(burst.encode()) == (with_marks if expected else burst.encode())


@pytest.mark.parametrize(
    ("ending", "signals", "code"),
    [
        ("end", "", 0),
        ("defect", "", 1),
        ("never", Key.CTRL_C, 130),
        ("stuck", Key.CTRL_C * 2, 130),
        ("never", "SIGTERM", 128 + signal.SIGTERM),
        ("never", "SIGHUP", 128 + signal.SIGHUP),
    ],
)
def test_the_terminal_is_restored_however_training_ends(
    start: Start, fake_training: Command, ending: str, signals: str, code: int
) -> None:
    before = initial_modes()
    terminal = start(fake_training(ending))
    terminal.see("train loss")
    assert terminal.modes != before
    terminal.press("typed" + Key.ENTER)
    if signals.startswith("SIG"):
        terminal.process.send_signal(getattr(signal, signals))
    else:
        for key in signals:
            terminal.press(key)
            time.sleep(0.1)
    terminal.wait_for_end()
    assert terminal.modes == before
    assert "typed" not in terminal.everything and n_panels(terminal) == 0
    assert not terminal.screen.cursor.hidden and terminal.raw.rfind(
        b"\x1b[?7h"
    ) > terminal.raw.rfind(b"\x1b[?7l")
    assert terminal.exit_code() == code, terminal.everything


def test_ctrl_c_works_behind_more_keys_than_the_terminal_queues(
    start: Start, fake_training: Command
) -> None:
    terminal = start(fake_training("never"))
    terminal.see("train loss")
    terminal.press("y" * 6000)
    terminal.press(Key.CTRL_C)
    terminal.see("over", 5)
    terminal.wait_for_end()
    assert terminal.exit_code() == 130 and "yyyy" not in terminal.everything


def test_keys_typed_during_training_reach_the_shell_afterwards(
    start: Start, fake_training: Command
) -> None:
    shell = start(
        ["bash", "--norc", "--noprofile", "+o", "history"],
        PS1="$ ",
        TRAIN=shlex.join(fake_training("end")),
    )
    shell.ready("$ ")
    shell.press('eval "$TRAIN"' + Key.ENTER)
    shell.see("train loss")
    shell.press("echo ab\x7fc" + Key.ENTER)
    shell.see("over")
    shell.see("\nac\n")
    assert shell.everything.index("over") < shell.everything.index("echo ac")


@pytest.mark.parametrize("command", ["bash --norc --noprofile", "dash -i"])
def test_ctrl_z_leaves_the_terminal_usable_and_fg_continues(
    start: Start, fake_training: Command, command: str
) -> None:
    name, *flags = command.split()
    if not shutil.which(name):
        pytest.skip(f"no {name} here")
    shell = start([name, *flags], PS1="$ ", ENV="", TRAIN=shlex.join(fake_training("never")))
    shell.ready("$ ")
    before = shell.modes
    shell.press('eval "$TRAIN"' + Key.ENTER)
    shell.see("train loss")
    for _ in range(2):
        quiet = shell.modes
        shell.press(Key.CTRL_Z)
        shell.wait(lambda: "train loss" not in shell.text)
        shell.ready("$ ")
        assert n_panels(shell) == 0 and not shell.screen.cursor.hidden
        assert (
            name == "bash" or shell.modes == before
        )  # bash edits the line itself and sets modes for that
        shell.press("fg" + Key.ENTER)
        shell.see("train loss")
        shell.wait(lambda quiet=quiet: shell.modes == quiet)
        shell.press("typed")
        time.sleep(0.2)
        shell.settle(0)
        assert n_panels(shell) == 1 and "typed" not in shell.everything
    shell.press(Key.CTRL_C)
    shell.see("over")
    shell.ready("$ ")
