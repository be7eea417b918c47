"""One process needs nothing; two processes agree."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from simplellm.distributed import World, average_gradients, from_main, joined, mean, wait_for_all

CPU = torch.device("cpu")
SCRIPT = """
import json, sys, torch
from torch import nn
from simplellm.distributed import average_gradients, from_main, joined, mean, wait_for_all
torch.set_num_threads(1)
with joined(torch.device("cpu")) as world:
    model = nn.Linear(3, 1)
    model.weight.grad = torch.full((1, 3), float(10 ** world.rank))
    model.bias.grad = None
    average_gradients(model, world)
    loss = mean(torch.tensor(2.0 + world.rank), world)
    chosen = from_main(0.1 + world.rank, world, torch.device("cpu"))
    wait_for_all(world)
    found = {"rank": world.rank, "size": world.size, "main": world.is_main, "weight": model.weight.grad.tolist(),
             "bias": model.bias.grad, "mean": float(loss), "chosen": chosen}
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
    assert model.weight.grad.tolist() == [[3.0, 3.0], [3.0, 3.0]] and not torch.distributed.is_initialized()


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")
def test_two_processes_have_the_mean_of_their_gradients_and_one_decision(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "script.py"), str(tmp_path)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=120)[1].decode() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    common = {"size": 2, "weight": [[5.5, 5.5, 5.5]], "bias": None, "mean": 2.5, "chosen": 0.1}
    assert found == [{"rank": rank, "main": rank == 0, **common} for rank in range(2)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
