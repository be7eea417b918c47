"""The copies that tests start behave as new interpreters do."""

from __future__ import annotations

import codecs
import subprocess
import sys

import pytest
from conftest import ROOT, posix_only
from program import environment, fork_server, quick

SHOWN = """
import os, sys
print(__name__, sys.argv, os.getcwd(), os.environ["SHOWN"], sys.stdin.read(), "한국어")
print(sys.stdout.isatty(), sys.stdout.encoding, sys.stdout.errors, file=sys.stderr)
print(sys.stderr.line_buffering, sys.stdout.line_buffering, sys.stderr.errors, file=sys.stderr)
"""
STREAMS = """
import sys
for stream in (sys.stdin, sys.stdout, sys.stderr):
    print(stream.encoding, stream.errors)
print("\\ud55c", file=sys.stderr)
"""
ENDINGS = [
    "raise SystemExit(3)", "raise SystemExit('why')", "print('x'); raise SystemExit", "1 / 0",
    "import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "import os; os._exit(5)",
    "import atexit; atexit.register(print, 'end')",
]  # fmt: skip

pytestmark = posix_only


def outcome(command: list[str], **env: str) -> tuple[int, bytes, bytes]:
    env = environment(SHOWN="here", PYTHONWARNINGS="", **env)
    done = subprocess.run(command, input="입력".encode(), capture_output=True, cwd=ROOT, env=env)
    code = done.returncode if done.returncode >= 0 else 128 - done.returncode
    return code, done.stdout, done.stderr


@pytest.mark.parametrize("code", [SHOWN, *ENDINGS])
def test_a_copy_has_the_streams_and_the_exit_code_of_a_new_interpreter(code: str) -> None:
    command = [sys.executable, "-c", code, "--flag", "값"]
    copied = quick(command, environment())
    if copied == command:
        pytest.skip("this system has no pidfd: every start is a new interpreter")
    expected, actual = outcome(command), outcome(copied)
    assert actual[:2] == expected[:2]
    assert actual[2].splitlines()[-1:] == expected[2].splitlines()[-1:]  # of a traceback, the error


@pytest.mark.parametrize("encoding", ["ascii", "latin-1:replace", "utf-8"])
def test_a_copy_has_the_requested_encoding_of_the_streams(encoding: str) -> None:
    command = [sys.executable, "-c", STREAMS]
    copied = quick(command, environment())
    if copied == command:
        pytest.skip("this system has no pidfd: every start is a new interpreter")
    expected, actual = (outcome(one, PYTHONIOENCODING=encoding) for one in (command, copied))
    assert actual == expected
    assert actual[1].startswith(codecs.lookup(encoding.partition(":")[0]).name.encode())


def test_a_setting_that_is_read_at_the_start_gets_a_new_interpreter() -> None:
    command = [sys.executable, "-m", "simplellm"]
    for name in ("PYTHONHASHSEED", "OMP_NUM_THREADS", "LC_ALL"):
        assert not fork_server().can_start(command, environment(**{name: "other"}))
