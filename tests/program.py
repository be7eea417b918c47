"""How tests start the program as a process of its own."""

from __future__ import annotations

import os
import sys

from conftest import ROOT

SIMPLELLM = (sys.executable, "-m", "simplellm")


def environment(**given: str) -> dict[str, str]:
    """That of a person at a terminal, the same wherever the tests run; an empty value removes a name."""
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
    }
    env |= {
        "TERM": "xterm-256color",
        "OMP_NUM_THREADS": "1",
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": str(ROOT),
    } | given
    return {name: value for name, value in env.items() if value}
