"""Exhausted memory in any part of the program: one line and exit code 1; a chat goes on."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import STORY, TINY_FLAGS
from program import QUICK_CONSTANTS

from simplellm.app.cli import main

ERRORS = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8000000000 bytes"),
]
Call = Callable[..., tuple[int, str, str]]
NETWORK = "simplellm.model.transformer.SimpleLLM.hidden"


def failing(error: Exception) -> Callable[..., None]:
    """A function that finds no memory."""

    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def fail_in(monkeypatch: pytest.MonkeyPatch, part: str, error: Exception) -> None:
    """Make a function fail; for the network also the decoder, which computes it on a CPU."""
    monkeypatch.setattr(part, failing(error))
    if part == NETWORK:
        monkeypatch.setattr("simplellm.inference.decoder.Decoder.read", failing(error))


def with_errors(*cases: tuple[str, str]) -> list[tuple[str, str, Exception]]:
    """The cases with one of the errors each, in turn."""
    return [(*case, ERRORS[number % len(ERRORS)]) for number, case in enumerate(cases)]


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Runs a command with some standard input: (exit code, stdout, stderr)."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for name, value in QUICK_CONSTANTS.items():
        monkeypatch.setattr(name, value)

    def call(*arguments: str, folder: Path, text: str = "") -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        code = main([*arguments, "--device", "cpu", "--checkpoints", str(folder)])
        return code, *capsys.readouterr()

    return call


def is_one_line(err: str) -> bool:
    errors = [line for line in err.splitlines() if line.startswith("error: out of memory")]
    return len(errors) == 1 and "Traceback" not in err


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "part",
    [
        "simplellm.data.tokenizer.Tokenizer.train",  # the merges of a text
        "simplellm.training.validation.Validation.score",
        "simplellm.training.saver.Saver.save",
    ],
)
def test_in_a_training(
    call: Call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    part: str,
) -> None:
    monkeypatch.setattr(part, failing(error))
    flags = [*TINY_FLAGS, "--max-steps", "2", "--eval-interval", "1", "--compile", "off"]
    code, out, err = call("train", str(STORY), *flags, folder=tmp_path / "runs")
    assert code == 1 and not out and is_one_line(err), err


@pytest.mark.parametrize(
    ("part", "command", "error"),
    with_errors(
        ("simplellm.app.subcommands.shared.open_model", "generate --prompt The-judge"),
        (NETWORK, "generate --prompt The-judge"),
        (
            NETWORK,
            "generate --prompt The-judge --num-beams 2",
        ),
        ("simplellm.model.scoring.evaluate", f"evaluate --data {STORY}"),
        ("simplellm.app.subcommands.evaluate.encoded", f"evaluate --data {STORY}"),
        (NETWORK, "analyze --prompt The-judge"),
        ("simplellm.app.subcommands.shared.open_model", "chat"),
    ),
)
def test_in_a_command(
    call: Call,
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    part: str,
    command: str,
) -> None:
    fail_in(monkeypatch, part, error)
    code, out, err = call(*command.split(), "--run", "tiny", folder=trained)
    assert code == 1 and not out and is_one_line(err), err


@pytest.mark.parametrize(
    ("part", "line", "error"),
    with_errors(
        ("simplellm.inference.sampler.Sampler.stream", "The judge"),
        (NETWORK, "The judge"),
        (NETWORK, "/compare"),
        (NETWORK, "/next The judge"),
        ("simplellm.app.subcommands.chat.load_sampler", "/run tiny"),
        ("simplellm.app.session.Session.ask", "The judge"),
    ),
)
def test_a_chat_goes_on(
    call: Call,
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    part: str,
    line: str,
) -> None:
    if part.endswith("load_sampler"):  # the chat itself loads its model first
        from simplellm.app.subcommands import chat

        calls = iter([chat.load_sampler])
        monkeypatch.setattr(
            chat, "load_sampler", lambda *arguments: next(calls, failing(error))(*arguments)
        )
    else:
        fail_in(monkeypatch, part, error)
    code, out, err = call("chat", "--run", "tiny", folder=trained, text=f"{line}\n/help\n")
    assert code == 0 and is_one_line(err), err
    assert "/compare" in out, "the next line is answered"
