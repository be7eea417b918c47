"""The first minute with the program, as a person pipes it in."""

from __future__ import annotations

import os
import subprocess
import sys

from conftest import ROOT

from simplellm.app.commands import COMMANDS

SCRIPT = "The judge\n/temp 0.5\n/topk 20\n/tokens 40\n/help\nquit\nnever read\n"


def test_a_piped_conversation(trained, tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "main.py"), "--checkpoints", str(trained)],
        input=SCRIPT.encode(), capture_output=True, timeout=60, env={**os.environ, "XDG_STATE_HOME": str(tmp_path)},
    )  # fmt: skip
    out = done.stdout.decode()
    assert (done.returncode, done.stderr) == (0, b"")
    assert out.startswith("The judge") and len(out.splitlines()[0]) >= len("The judge")
    assert [line for line in out.splitlines() if line in ("temperature 0.5", "top_k 20", "max_new_tokens 40")] == [
        "temperature 0.5", "top_k 20", "max_new_tokens 40",
    ]  # fmt: skip
    assert all(command.usage in out and command.help in out for command in COMMANDS)
    assert "\x1b" not in out and "never read" not in out
