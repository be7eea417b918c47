"""Runs a module of this folder in a process that does nothing else, and gives what it counted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from conftest import ROOT


def run_module(name: str, *options: str) -> list[str]:
    """The lines that `python -m faults.NAME` prints; fails where it found a fault."""
    done = subprocess.run(
        [sys.executable, "-m", f"faults.{name}", *options],
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()
