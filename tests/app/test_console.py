"""Text of any encoding is read, and JSON stays JSON where the output has few characters."""

from __future__ import annotations

import errno
import io
import json
import os
import sys

import pytest

from simplellm.app.cli import main
from simplellm.app.console import decoded, input_lines, is_broken_pipe, standard_input, write_json

VALUES = {
    "latin": "caf\xe9",
    "korean": "한글",
    "emoji": "😀",
    "half": "\ud83d",
    "control": "\x9b31m",
    "quote": '"\\',
}


@pytest.mark.parametrize(
    ("data", "encoding", "text"),
    [
        ("한글".encode(), "cp949", "한글"),
        ("한글".encode("cp949"), "cp949", "한글"),
        ("한글".encode("cp949"), "utf-8", "\ufffd\u0471\ufffd"),
        (b"\xef\xbb\xbfa\r\nb\rc", "utf-8", "a\nb\nc"),
        ("\ufeff한글".encode("utf-16-le"), "cp949", "한글"),
        (b"caf\xe9", "cp1252", "café"),
        (b"\x81", "cp1252", "\ufffd"),
        (b"caf\xe9", None, "caf\ufffd"),
        (b"caf\xe9", "no-such-encoding", "caf\ufffd"),
        (b"", "cp949", ""),
    ],
)
def test_bytes_from_a_pipe_are_utf_8_or_in_the_console_encoding(
    data: bytes, encoding: str | None, text: str
) -> None:
    assert decoded(data, encoding) == text


def test_each_line_of_a_pipe_is_decoded_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    data = "한글\r\n".encode() + "한글\n\n".encode("cp949") + b"old\rmac\nlast"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), "cp949"))
    assert list(input_lines()) == ["한글", "한글", "", "old", "mac", "last"]


def test_a_closed_standard_input_has_no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert standard_input() is None and list(input_lines()) == []


@pytest.mark.parametrize(
    "command", [["train", "-"], ["generate", "--prompt", "-"], ["evaluate", "--data", "-"]]
)
def test_a_closed_standard_input_is_reported_in_one_line(
    command: list[str], trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert main([*command, "--checkpoints", str(trained)]) == 1
    assert "there is no standard input to read" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["utf-8", "cp949", "cp1252", "ascii", "latin-1", "utf-16"])
def test_json_is_equivalent_in_every_encoding(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding, errors="backslashreplace"))
    write_json(VALUES)
    assert json.loads(out.getvalue().decode(encoding)) == VALUES


def test_characters_of_the_encoding_are_not_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, "cp949", newline=""))
    write_json({"text": "한글"})
    assert out.getvalue().decode("cp949") == '{"text": "한글"}\n'


def test_json_to_a_closed_stdout_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert write_json([]) is None and sys.stdout is None


def test_a_broken_pipe_is_recognized_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    invalid = OSError(errno.EINVAL, "Invalid argument")
    assert is_broken_pipe(BrokenPipeError(errno.EPIPE, "Broken pipe")) and not is_broken_pipe(
        invalid
    )
    monkeypatch.setattr(os, "name", "nt")
    assert is_broken_pipe(invalid) and not is_broken_pipe(
        OSError(errno.EINVAL, "Invalid argument", "a:b")
    )
