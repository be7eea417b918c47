"""Joining: wrong variables and missing processes are reported, and a signal ends the wait."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import STORY, TINY_FLAGS, posix_only

from simplellm.app.cli import main
from simplellm.errors import SettingError, TrainingError
from simplellm.training import rendezvous
from simplellm.training.rendezvous import Launch, join_all

needs_gloo = pytest.mark.skipif(
    not torch.distributed.is_gloo_available(), reason="this torch has no gloo"
)
GOOD = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture
def free_port() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    yield port


def alone(rank: int, port: int, address: str = "127.0.0.1") -> Launch:
    return Launch(rank, 2, rank, address, port)


@pytest.mark.parametrize("variables", [{}, {"WORLD_SIZE": "1"}, {"WORLD_SIZE": "", "RANK": "x"}])
def test_without_a_world_size_there_is_one_process(variables: dict[str, str]) -> None:
    assert Launch.of(variables) is None


def test_the_variables_of_torchrun_are_read() -> None:
    assert Launch.of(GOOD | {"LOCAL_RANK": "0"}) == Launch(0, 2, 0, "127.0.0.1", 29500)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WORLD_SIZE", "abc"),
        ("WORLD_SIZE", "0"),
        ("WORLD_SIZE", "-2"),
        ("WORLD_SIZE", "2.5"),
        ("WORLD_SIZE", "²"),
        ("RANK", "x"),
        ("RANK", ""),
        ("RANK", "2"),
        ("RANK", "-1"),
        ("LOCAL_RANK", "x"),
        ("MASTER_ADDR", " "),
        ("MASTER_PORT", "abc"),
        ("MASTER_PORT", ""),
        ("MASTER_PORT", "0"),
        ("MASTER_PORT", "65536"),
    ],
)
def test_a_wrong_variable_is_named_with_its_value(name: str, value: str) -> None:
    with pytest.raises(SettingError) as caught:
        Launch.of(GOOD | {name: value})
    assert name in str(caught.value) and (value.strip() or "nothing") in str(caught.value)
    assert caught.value.fix


def test_a_wrong_world_size_is_an_error_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "abc")
    assert main(["train", str(STORY), "--checkpoints", str(tmp_path), *TINY_FLAGS]) == 2
    assert capsys.readouterr().err.splitlines()[0].startswith("error: the environment variable")


@needs_gloo
@pytest.mark.parametrize("rank", [0, 1])
def test_a_missing_process_is_reported(
    rank: int, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    notices: list[str] = []
    monkeypatch.setattr(rendezvous, "LOCAL_SECONDS", 0.3)
    monkeypatch.setattr(rendezvous, "NOTICE_SECONDS", 0.1)
    with pytest.raises(TrainingError, match=f"rank {rank} waited .* at 127.0.0.1:{free_port}"):
        join_all(alone(rank, free_port), notices.append)
    assert len(notices) == 1 and f"rank {rank} of 2 waits" in notices[0]


@needs_gloo
def test_a_port_of_another_program_is_reported() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(TrainingError, match="is used by another program"):
            join_all(alone(0, other.getsockname()[1]), print)


def test_an_unknown_host_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise socket.gaierror("unknown")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(TrainingError, match="there is no host elsewhere"):
        join_all(alone(0, 29500, "elsewhere"), print)


@posix_only
@needs_gloo
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_wait_for_a_missing_process(
    number: int, code: int, free_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_waiting = rendezvous._Wait.until

    def until(self: rendezvous._Wait, *arguments: object) -> None:
        threading.Timer(0.3, os.kill, (os.getpid(), number)).start()
        is_waiting(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(rendezvous._Wait, "until", until)
    for name, value in {**GOOD, "MASTER_PORT": str(free_port)}.items():
        monkeypatch.setenv(name, value)
    assert main(["train", str(STORY), "--checkpoints", str(tmp_path), *TINY_FLAGS]) == code
    assert not list(tmp_path.iterdir())
