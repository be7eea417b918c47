"""One process needs no group; two processes agree."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import STORY, TINY_FLAGS, posix_only
from program import environment, quick
from torch import nn

from simplellm.app import cli
from simplellm.checkpoint.run import RunFolder
from simplellm.storage.files import sha256_of
from simplellm.training.distributed import (
    World,
    any_of,
    average_gradients,
    from_main,
    joined,
    mean,
    wait_for_all,
)

CPU = torch.device("cpu")
SCRIPT = """
import json, sys, torch
from torch import nn
from simplellm.training import distributed
from simplellm.training.distributed import any_of, average_gradients, from_main
from simplellm.training.distributed import joined, mean, wait_for_all
distributed.MAX_BUCKET_SIZE = 5
cpu = torch.device("cpu")
with joined(cpu) as world:
    model = nn.Linear(3, 1)
    model.weight.grad = torch.full((1, 3), float(10 ** world.rank))
    model.bias.grad = None
    average_gradients(model, world)
    layers = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 1), nn.Linear(4, 2))
    for number, weight in enumerate(layers.parameters()):
        weight.grad = torch.full_like(weight, float(number + 10 * world.rank))
    average_gradients(layers, world)
    means = [weight.grad.unique().tolist() for weight in layers.parameters()]
    stops = [any_of(world.rank == rank, world, cpu) for rank in (0, 1, 2)]
    loss = mean(torch.tensor(2.0 + world.rank), world)
    chosen = from_main(0.1 + world.rank, world, cpu)
    wait_for_all(world)
    found = {
        "rank": world.rank, "size": world.size, "main": world.is_main,
        "weight": model.weight.grad.tolist(), "bias": model.bias.grad, "mean": float(loss),
        "chosen": chosen, "means": means, "stops": stops,
    }
    with open(f"{sys.argv[1]}/{world.rank}.json", "w") as file:
        json.dump(found, file)
assert not torch.distributed.is_initialized()
"""


def test_a_world_of_one_is_a_no_op(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    model = nn.Linear(2, 2)
    model.weight.grad = torch.full((2, 2), 3.0)
    with joined(CPU) as world:
        average_gradients(model, world)
        wait_for_all(world)
        assert world == World(0, 1) and world.is_main
        assert float(mean(torch.tensor(2.5), world)) == 2.5 and from_main(0.1, world, CPU) == 0.1
        assert any_of(True, world, CPU) and not any_of(False, world, CPU)
    assert (
        model.weight.grad.tolist() == [[3.0, 3.0], [3.0, 3.0]]
        and not torch.distributed.is_initialized()
    )


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")
def test_two_ranks_share_mean_gradients_and_decisions(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": "2",
    }
    ranks = [environment(**shared, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(2)]
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path)]
    processes = [
        subprocess.Popen(quick(command, env), env=env, stderr=subprocess.PIPE) for env in ranks
    ]
    try:
        errors = [process.communicate(timeout=120)[1].decode() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    common = {"size": 2, "weight": [[5.5, 5.5, 5.5]], "bias": None, "mean": 2.5, "chosen": 0.1}
    common |= {"means": [[5.0 + number] for number in range(6)], "stops": [True, True, False]}
    assert found == [{"rank": rank, "main": rank == 0, **common} for rank in range(2)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ---------------------------------------------------------------- the whole command under torchrun


@pytest.mark.parametrize(("rank", "is_heard"), [("0", True), ("1", False)])
def test_only_the_main_rank_prints(
    rank: str, is_heard: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    assert cli.main(["--version"]) == 0
    assert bool("".join(capfd.readouterr())) == is_heard


def test_a_rank_that_fails_alone_prints_its_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    slept: list[float] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(time, "sleep", slept.append)
    assert cli.main(["train", "--no-such-flag"]) == 2
    assert "no-such-flag" in capfd.readouterr().err
    assert slept == [cli.FAILS_ALONE_SECONDS], (
        "had the first one failed too, this one would have been ended by then"
    )


def torchrun(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """`simplellm train` in two processes, with one record of the log for each step."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "-m",
        "simplellm",
        "train",
    ]
    flags = [
        "--name",
        "two",
        "--checkpoints",
        str(folder),
        "--log-interval",
        "1",
        *TINY_FLAGS,
        "--dropout",
        "0.1",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [*command, *arguments, *flags], env=environment, text=True, start_new_session=True, **pipes
    )


def weights(folder: Path) -> str:
    return sha256_of(RunFolder(folder / "two").last() / "model.safetensors")


STEPS = ("--max-steps", "60", "--eval-interval", "30")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run of two processes that nobody stopped; each thing was said once."""
    folder = tmp_path_factory.mktemp("whole")
    process = torchrun(folder, str(STORY), *STEPS)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert (
        out.count("two: ") == 1
        and err.count("training two:")
        == err.count("chat with it:")
        == err.count("loss curve:")
        == 1
    )
    return folder


@posix_only
@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_two_stopped_ranks_save_once_and_resume_bit_for_bit(
    whole: Path, tmp_path: Path, number: int
) -> None:
    records = [json.loads(line) for line in (whole / "two" / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["kind"] == "step"] == list(
        range(1, 61)
    ), "one log"
    process = torchrun(tmp_path, str(STORY), *STEPS)
    deadline = time.monotonic() + 300
    while not (tmp_path / "two" / "log.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=300)
    assert (
        "Continue with: simplellm train --resume --name two" in err
        and err.count("stopped after step") == 1
    ), err
    assert RunFolder(tmp_path / "two").last().name < "step-000060"
    process = torchrun(tmp_path, "--resume")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0 and out.count("two: ") == 1, err
    assert weights(tmp_path) == weights(whole)


@posix_only
@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")
def test_two_ranks_with_a_budget_make_the_same_decisions(tmp_path: Path) -> None:
    """Their clocks differ, but not the timed steps, the second look and the end of the run."""
    process = torchrun(tmp_path, str(STORY), "--budget", "10s", "--max-epochs", "10000", "--json")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    info, result = RunFolder(tmp_path / "two").read_info(), json.loads(out)
    assert result["steps"] == info["training"]["max_steps"] and info["world_size"] == 2
    assert 5 < result["train_seconds"] < 20
