"""Prompts: the same text gives the same reply in the chat and through both forms of --prompt."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from simplellm.app.cli import main
from simplellm.app.commands.registry import dispatch
from simplellm.app.prompt_text import ABOUT_SPACE, notes_on, without_line_end
from simplellm.app.session import Session
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.step_folder import load_model
from simplellm.config.sampling import SamplingParams
from simplellm.device import choose_device
from simplellm.inference.sampler import Sampler

SETTINGS = ["--seed", "3", "--max-new-tokens", "12", "--device", "cpu"]


@pytest.fixture(scope="module")
def sampler(trained: Path) -> Sampler:
    return Sampler(*load_model(RunFolder(trained / "tiny").best(), choose_device("cpu")))


@pytest.mark.parametrize("end", ["", " ", "  ", "\t", " \n", "\n", "\r\n", "\u3000"])
def test_the_end_of_a_prompt_is_treated_alike_everywhere(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, end: str
) -> None:
    text = "The judge" + end

    def run(command: str, *flags: str, stdin: str = "") -> tuple[str, bool]:
        stream = SimpleNamespace(
            buffer=io.BytesIO(stdin.encode()), encoding="utf-8", isatty=lambda: False
        )
        monkeypatch.setattr(sys, "stdin", stream)
        capsys.readouterr()
        folder = ["--checkpoints", str(trained), "--run", "tiny"]
        assert main([command, *folder, *SETTINGS, *flags]) == 0
        out, err = capsys.readouterr()
        return out, ABOUT_SPACE in err

    by_flag, flag_notice = run("generate", "--prompt", text, "--json")
    by_stdin, stdin_notice = run("generate", "--prompt", "-", "--json", stdin=text)
    in_chat, chat_notice = run("chat", stdin=text + "\n" * (not text.endswith("\n")))
    reply = json.loads(by_flag)["text"]
    assert json.loads(by_stdin)["text"] == reply
    assert in_chat == without_line_end(text) + reply + "\n"
    assert flag_notice == stdin_notice == chat_notice == bool(end.strip("\r\n"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\n", "a"),
        ("a\r\n", "a"),
        ("a\n\n", "a\n"),
        (" a ", " a "),
        ("", ""),
        ("\n", ""),
        ("한국어 \n", "한국어 "),
    ],
)
def test_one_line_end_is_removed_and_nothing_else(text: str, expected: str) -> None:
    assert without_line_end(text) == expected


def test_white_space_at_the_end_is_reported_but_no_line_end() -> None:
    assert [bool(notes_on(text)) for text in ("a ", "a\t", "a\u3000", "a\n", "a", "")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip


def test_commands_that_take_a_prompt_keep_the_spaces_at_its_end(sampler: Sampler) -> None:
    session = Session(sampler, Path("tiny"), SamplingParams())
    next_word, next_space = (dispatch(session, f"/next The{end}") for end in ("", " "))
    assert next_word != next_space
    assert dispatch(session, "/next   ") == dispatch(session, "/next")
