"""Output to a pipe, a file or a closed stream: exact text, no escape codes."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from program import SIMPLELLM, environment

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
PROGRAM = shlex.join(SIMPLELLM)


def sh(command: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of shell; a pipeline fails if any of its commands fails."""
    line = f"set -o pipefail; {command}"
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, timeout=120, cwd=ROOT, env=environment(**env)
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
    "generate {flags} --prompt a --max-new-tokens 2 >&-",
    "--bogus >&- 2>&- <&- || test $? = 2",
]


@pytest.mark.parametrize("command", READERS_WHO_LEAVE)
def test_a_closed_pipe_is_no_error(flags: list[str], tmp_path: Path, command: str) -> None:
    lines = tmp_path / "lines"
    lines.write_text("The judge\n/info\n" * 50)
    line = command.format(flags=shlex.join(flags), lines=shlex.quote(str(lines)))
    done = sh(f"{PROGRAM} {line}", XDG_STATE_HOME=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, b"")


def test_generate_gives_the_exact_text_to_a_pipe(
    flags: list[str], capsys: pytest.CaptureFixture
) -> None:
    command = ["generate", *flags, "--prompt", "a", *WILD]
    capsys.readouterr()
    assert main([*command, "--json"]) == 0
    text = json.loads(capsys.readouterr().out)["text"]
    assert sh(f"{PROGRAM} {shlex.join(command)}", FORCE_COLOR="1").stdout.decode() == text + "\n"
    assert any(
        character < " " and character not in "\n\t" for character in text
    )  # otherwise this test proves nothing


def test_a_stream_whose_encoding_lacks_characters_is_written_to(flags: list[str]) -> None:
    done = sh(
        f"{PROGRAM} generate {shlex.join([*flags, *WILD])} --prompt 한국어",
        PYTHONIOENCODING="ascii",
    )
    assert done.returncode == 0 and done.stdout and b"Traceback" not in done.stderr
    command = f"{PROGRAM} generate {shlex.join([*flags, *WILD])} --prompt 한국어 --json"
    shown = json.loads(sh(command, PYTHONIOENCODING="ascii").stdout)
    assert done.stdout.decode("utf-8") == shown["text"] + "\n"
    wrong = sh(f"{PROGRAM} generate --prompt a --temperature 뜨거운", PYTHONIOENCODING="ascii")
    assert (
        wrong.returncode == 2
        and wrong.stderr.startswith(b"error: ")
        and len(wrong.stderr.splitlines()) <= 2
    )


@pytest.mark.parametrize("command", CLOSED_STREAMS)
def test_closed_streams_cause_no_traceback(flags: list[str], command: str) -> None:
    done = sh(f"{PROGRAM} {command.format(flags=shlex.join(flags))}")
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_full_disk_is_reported_in_one_line(flags: list[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    done = sh(f"{PROGRAM} generate {shlex.join(flags)} --prompt a --max-new-tokens 2 > /dev/full")
    assert (
        done.returncode == 1
        and len(done.stderr.splitlines()) == 1
        and done.stderr.startswith(b"error: ")
    )
