"""Joining of the processes that torchrun starts: its environment variables, and the wait for all.

The wait polls from Python, so that a signal ends it at once. torch's own wait blocks in C++, where
Python handles no signal, for ten minutes.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from simplellm.errors import Notice, SettingError, TrainingError

LOCAL_ADDRESSES = ("localhost", "127.0.0.1", "::1")
# torchrun starts the processes of one machine together; other machines may be started by hand.
LOCAL_SECONDS = 60.0
REMOTE_SECONDS = 600.0
NOTICE_SECONDS = 5.0  # of waiting, before the user is told what is missing
POLL_SECONDS = 0.1
CONNECT_SECONDS = 2.0
STORE_TIMEOUT = timedelta(seconds=30)
MAX_PORT = 65535


@dataclass(frozen=True)
class Launch:
    """What torchrun told this process: its rank, and where the processes meet."""

    rank: int
    size: int
    local_rank: int
    address: str
    port: int

    @classmethod
    def of(cls, variables: Mapping[str, str]) -> Launch | None:
        """From environment variables; None for a single process. SettingError if one is wrong."""
        size = _number(variables, "WORLD_SIZE", "1", 1)
        if size == 1:
            return None
        rank = _number(variables, "RANK", "", 0, size - 1)
        address = variables.get("MASTER_ADDR", "").strip()
        if not address:
            raise _wrong("MASTER_ADDR", "the address of the first process", "")
        return cls(
            rank,
            size,
            _number(variables, "LOCAL_RANK", "0", 0),
            address,
            _number(variables, "MASTER_PORT", "", 1, MAX_PORT),
        )

    @property
    def seconds(self) -> float:
        """How long to wait for the other processes."""
        return LOCAL_SECONDS if self.address in LOCAL_ADDRESSES else REMOTE_SECONDS

    def __str__(self) -> str:
        return f"{self.address}:{self.port}"


def join_all(launch: Launch, notice: Notice) -> Any:
    """The torch Store of all processes, once each has joined; TrainingError if one is missing."""
    _check_address(launch)
    wait = _Wait(launch, notice)
    is_agent_store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    is_host = launch.rank == 0 and not is_agent_store
    if not is_host:
        wait.until(lambda: _is_reachable(launch), f"there is no process at {launch}")
    key = "simplellm/joined/" + os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            launch.address,
            launch.port,
            launch.size,
            is_host,
            STORE_TIMEOUT,
            wait_for_workers=False,
            multi_tenant=True,
        )
        store.add(key, 1)
        wait.until(
            lambda: store.add(key, 0) >= launch.size,
            f"not all of {launch.size} processes have joined",
        )
    except RuntimeError as error:
        raise _no_store(launch, error) from error
    return store


class _Wait:
    """Polls until a condition holds; a notice says after NOTICE_SECONDS what is waited for."""

    def __init__(self, launch: Launch, notice: Notice) -> None:
        self._launch = launch
        self._notice = notice
        self._started_at = time.monotonic()
        self._has_told = False

    def until(self, is_done: Callable[[], bool], what: str) -> None:
        """TrainingError with `what` if the condition does not hold in time."""
        launch = self._launch
        while not is_done():
            waited = time.monotonic() - self._started_at
            if waited > launch.seconds:
                raise TrainingError(
                    f"rank {launch.rank} waited {waited:.0f} s at {launch}: {what}",
                    fix=f"start all {launch.size} processes with torchrun, "
                    "or unset WORLD_SIZE to train with one",
                )
            if waited > NOTICE_SECONDS and not self._has_told:
                self._has_told = True
                self._notice(f"rank {launch.rank} of {launch.size} waits at {launch}: {what}")
            time.sleep(POLL_SECONDS)


def _check_address(launch: Launch) -> None:
    try:
        socket.getaddrinfo(launch.address, launch.port)
    except (OSError, UnicodeError) as error:
        raise TrainingError(
            f"there is no host {launch.address} (MASTER_ADDR)",
            fix="set MASTER_ADDR to the name or address of the machine of rank 0",
        ) from error


def _is_reachable(launch: Launch) -> bool:
    try:
        socket.create_connection((launch.address, launch.port), CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def _no_store(launch: Launch, error: RuntimeError) -> TrainingError:
    reason = (str(error).splitlines() or [""])[0][:200]
    if "EADDRINUSE" in reason or "in use" in reason:
        return TrainingError(
            f"port {launch.port} (MASTER_PORT) is used by another program",
            fix="set MASTER_PORT to a free port, or stop that program",
        )
    return TrainingError(
        f"rank {launch.rank} cannot join the others at {launch}: {reason}",
        fix="check MASTER_ADDR and MASTER_PORT, and that all processes run",
    )


def _number(
    variables: Mapping[str, str], name: str, default: str, low: int, high: int | None = None
) -> int:
    text = variables.get(name, "").strip() or default
    range_ = f"{low} or more" if high is None else f"{low} to {high}"
    if not (text.isascii() and text.isdecimal()) or not low <= int(text) <= (high or int(text)):
        raise _wrong(name, f"a whole number, {range_}", text)
    return int(text)


def _wrong(name: str, expected: str, got: str) -> SettingError:
    return SettingError(
        f"the environment variable {name} is {expected}, got {got or 'nothing'}",
        fix="start with torchrun, which sets it, or unset WORLD_SIZE to train with one process",
    )
