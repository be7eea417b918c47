"""The first minute with the program, as a person pipes it in."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from program import environment, quick

from simplellm.app.cli import main
from simplellm.app.commands.registry import COMMANDS

SCRIPT = "The judge\n/temp 0.5\n/topk 20\n/tokens 40\n/help\nquit\nnever read\n"


def talk(script: str, state: Path, *arguments: str) -> tuple[str, str]:
    """stdout and stderr of a chat whose piped input is `script`; it ends without an error."""
    env = environment(XDG_STATE_HOME=str(state))
    command = quick([sys.executable, str(ROOT / "main.py"), *arguments], env)
    done = subprocess.run(command, input=script.encode(), capture_output=True, timeout=60, env=env)
    assert done.returncode == 0
    return done.stdout.decode(), done.stderr.decode()


def test_a_piped_conversation(trained, tmp_path):
    out, err = talk(SCRIPT, tmp_path, "--checkpoints", str(trained))
    assert err == "" and list(tmp_path.iterdir()) == []  # a pipe saves nothing
    assert out.startswith("The judge") and len(out.splitlines()[0]) >= len("The judge")
    assert [line for line in out.splitlines() if line in ("temperature 0.5", "top_k 20",
    "max_new_tokens 40")] == [
        "temperature 0.5", "top_k 20", "max_new_tokens 40",
    ]  # fmt: skip
    assert all(command.usage in out and command.help in out for command in COMMANDS)
    assert "\x1b" not in out and "never read" not in out


@pytest.fixture
def talk_here(monkeypatch, capfd):
    """`talk` in this process, which saves a start of the program."""

    def talk_here(script: str, state: Path, *arguments: str) -> tuple[str, str]:
        monkeypatch.setenv("XDG_STATE_HOME", str(state))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(script.encode())))
        assert main(list(arguments)) == 0
        return capfd.readouterr()

    return talk_here


def test_a_piped_conversation_continues_with_the_continue_flag(trained, tmp_path, talk_here):
    again = ["chat", "--checkpoints", str(trained), "--continue", "--max-new-tokens", "3"]
    out, err = talk_here("/context on\nThe judge\n", tmp_path, *again)
    assert out.splitlines()[1].startswith("The judge") and "no earlier conversation" in err
    out, err = talk_here("/context\n/regen\n/continue\n/undo\n/save\n", tmp_path, *again)
    assert out.startswith("context on") and "removed the turn 'The judge'; 0 turns left" in out
    assert (
        out.count(str(tmp_path)) == 1 and "new reply with seed" in err and "\x1b" not in out + err
    )
    (path,) = tmp_path.rglob("*.jsonl")
    assert [line.split(":")[0] for line in path.read_text().splitlines()] == [
        '{"simplellm"',
        *['{"turn"'] * 3,
        '{"turns"',
    ]


def test_no_history_saves_neither_history_nor_conversation(trained, tmp_path, talk_here):
    arguments = [
        "chat",
        "--checkpoints",
        str(trained),
        "--continue",
        "--no-history",
        "--max-new-tokens",
        "3",
    ]
    out, _ = talk_here("The judge\n/save\n", tmp_path, *arguments)
    assert "not saved" in out and list(tmp_path.iterdir()) == []
