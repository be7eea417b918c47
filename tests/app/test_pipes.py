"""Output to a pipe, a file or a closed stream: exact text, no escape codes."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest
from program import sh

from simplellm.app.cli import main

WILD = [
    "--temperature",
    "5",
    "--top-k",
    "0",
    "--top-p",
    "1",
    "--seed",
    "4",
    "--max-new-tokens",
    "500",
]  # generates any bytes
pytestmark = pytest.mark.skipif(
    os.name != "posix", reason="the pipelines are those of a POSIX shell"
)


@pytest.fixture
def flags(trained: Path) -> list[str]:
    return ["--checkpoints", str(trained), "--run", "tiny"]


READERS_WHO_LEAVE = [
    "generate {flags} --prompt a --max-new-tokens 20000 | head -c 5",
    "chat {flags} < {lines} | head -1",
    "runs {flags} | true",
    "--help | head -1",
    "--bogus 2>&1 | true || test $? = 2",
]
CLOSED_STREAMS = [
    pytest.param(
        "generate {flags} --prompt a --max-new-tokens 2 >&-", marks=pytest.mark.slow
    ),  # starts torch
    "--bogus >&- 2>&- <&- || test $? = 2",
]


@pytest.mark.parametrize("command", READERS_WHO_LEAVE)
def test_a_closed_pipe_is_no_error(flags: list[str], tmp_path: Path, command: str) -> None:
    lines = tmp_path / "lines"
    lines.write_text("The judge\n/info\n" * 50)
    line = command.format(flags=shlex.join(flags), lines=shlex.quote(str(lines)))
    done = sh(f"simplellm {line}", XDG_STATE_HOME=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, b"")


def test_generate_gives_the_exact_text_to_a_pipe(
    flags: list[str], capsys: pytest.CaptureFixture
) -> None:
    command = ["generate", *flags, "--prompt", "a", *WILD]
    capsys.readouterr()
    assert main([*command, "--json"]) == 0
    text = json.loads(capsys.readouterr().out)["text"]
    assert sh(f"simplellm {shlex.join(command)}", FORCE_COLOR="1").stdout.decode() == text + "\n"
    assert any(
        character < " " and character not in "\n\t" for character in text
    )  # otherwise this test proves nothing


def test_a_stream_whose_encoding_lacks_characters_is_written_to(flags: list[str]) -> None:
    done = sh(
        f"simplellm generate {shlex.join([*flags, *WILD])} --prompt 한국어",
        PYTHONIOENCODING="ascii",
    )
    assert done.returncode == 0 and done.stdout and b"Traceback" not in done.stderr
    command = f"simplellm generate {shlex.join([*flags, *WILD])} --prompt 한국어 --json"
    shown = json.loads(sh(command, PYTHONIOENCODING="ascii").stdout)
    assert done.stdout.decode("utf-8") == shown["text"] + "\n"
    wrong = sh("simplellm generate --prompt a --temperature 뜨거운", PYTHONIOENCODING="ascii")
    assert (
        wrong.returncode == 2
        and wrong.stderr.startswith(b"error: ")
        and len(wrong.stderr.splitlines()) <= 2
    )


@pytest.mark.parametrize("command", CLOSED_STREAMS)
def test_closed_streams_cause_no_traceback(flags: list[str], command: str) -> None:
    done = sh(f"simplellm {command.format(flags=shlex.join(flags))}", is_quick=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    "command", ["generate {flags} --prompt a --max-new-tokens 2", "runs {flags} --json", "--help"]
)
def test_a_full_disk_is_reported_in_one_line(flags: list[str], command: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    done = sh(f"simplellm {command.format(flags=shlex.join(flags))} > /dev/full")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith(b"error: ")
