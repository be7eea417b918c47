"""How tests start the program in a new process."""

from __future__ import annotations

import atexit
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from conftest import ROOT, SHARED_SERVER
from fork_server import ForkServer

# Values that shorten what takes long and what most tests do not examine.
QUICK_CONSTANTS: dict[str, float] = {
    "simplellm.app.training_monitor.PREVIEW_TOKENS": 2,
    "simplellm.app.training_monitor.REPORT_TOKENS": 4,
    "simplellm.app.subcommands.find_lr.STEPS": 10,
    "simplellm.device.MIN_PROBES": 1,
    "simplellm.device.MAX_PROBES": 1,
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
        if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "PYTHONUNBUFFERED")
    }
    env |= {
        "TERM": "xterm-256color",
        "OMP_NUM_THREADS": "1",
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": str(ROOT),
    } | given
    return {name: value for name, value in env.items() if value}


@cache
def fork_server() -> ForkServer:
    """The server that all test processes share; it ends with the first of them."""
    owner, _, folder = os.environ.get(SHARED_SERVER, "").partition(":")
    if not folder:
        owner, folder = str(os.getpid()), tempfile.mkdtemp()
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return ForkServer(Path(folder), environment(), int(owner))


def quick(command: Sequence[str], env: Mapping[str, str]) -> list[str]:
    """A command that does the same as `command` and starts faster, where there is one."""
    if fork_server().can_start(command, env):
        return [*fork_server().client(), *command[1:]]
    return list(command)


def sh(
    command: str, *, is_quick: bool = True, cwd: Path = ROOT, **env: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a line of shell where `simplellm` is the program.

    A pipeline fails if any of its commands fails. is_quick: False starts a new interpreter.
    """
    whole_env = environment(**env)
    program = shlex.join(quick(SIMPLELLM, whole_env) if is_quick else SIMPLELLM)
    line = f'set -o pipefail; simplellm() {{ {program} "$@"; }}; {command}'
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, timeout=120, cwd=cwd, env=whole_env
    )
