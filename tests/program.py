"""How tests start the program in a new process."""

from __future__ import annotations

import os
import sys

from conftest import ROOT

# Values that shorten what takes long and what most tests do not examine.
QUICK_CONSTANTS: dict[str, float] = {
    "simplellm.app.training_monitor.PREVIEW_TOKENS": 2,
    "simplellm.app.training_monitor.REPORT_TOKENS": 4,
    "simplellm.app.subcommands.find_lr.STEPS": 10,
    "simplellm.device.SPEED_PROBE_SIZE": 32,
    "simplellm.evaluation.benchmark.SECONDS_PER_TURN": 1e-3,
    "simplellm.evaluation.benchmark.WARM_UP_TURNS": 1,
    "simplellm.training.lr_range_test.STEPS": 10,
    "simplellm.training.plan.TIMED_STEPS": 1,
    "simplellm.training.plan.WARM_UP_STEPS": 1,
}
SIMPLELLM = (sys.executable, "-m", "simplellm")


def environment(**given: str) -> dict[str, str]:
    """The environment of a user at a terminal, the same on every machine.

    An empty value removes a variable.
    """
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
