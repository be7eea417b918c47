"""Data-parallel training on several processes (ranks).

Every function is a no-op at world size 1, so that callers have one path. Start with
`torchrun --nproc-per-node N -m simplellm train ...`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from simplellm.device import use_gpu
from simplellm.errors import Notice
from simplellm.training.rendezvous import Launch, join_all

# Values in one message: fewer messages are faster, and a message is a copy (128 MB).
MAX_BUCKET_SIZE = 1 << 25
# The main process may prepare a large text or score a large model while the others wait.
TIMEOUT = timedelta(hours=6)


@dataclass(frozen=True)
class World:
    """The rank of this process, and the number of processes (`torch.distributed` world size)."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0


@contextlib.contextmanager
def joined(device: torch.device, notice: Notice = lambda text: None) -> Iterator[World]:
    """Within the block the processes of torchrun form a group; World(0, 1) without torchrun.

    SettingError for wrong environment variables, TrainingError if a process is missing. A notice
    says which one is waited for.
    """
    launch = Launch.of(os.environ)
    if launch is None:
        yield World()
        return
    if device.type == "cuda":
        use_gpu(launch.local_rank)
    store = join_all(launch, notice)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend, store=store, rank=launch.rank, world_size=launch.size, timeout=TIMEOUT
    )
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def average_gradients(model: nn.Module, world: World) -> None:
    """Replace the gradients by their mean over all ranks."""
    if world.size == 1:
        return
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    while gradients:
        n, total = 1, gradients[0].numel()
        while n < len(gradients) and total + gradients[n].numel() <= MAX_BUCKET_SIZE:
            total += gradients[n].numel()
            n += 1
        _average(gradients[:n], world.size)
        gradients = gradients[n:]


def _average(tensors: list[Tensor], n_ranks: int) -> None:
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat.div_(n_ranks)
    parts = flat.split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def mean(value: Tensor, world: World) -> Tensor:
    """The mean of a scalar over all ranks."""
    if world.size > 1:
        dist.all_reduce(value)
        value = value / world.size
    return value


def from_main(value: float, world: World, device: torch.device) -> float:
    """The main rank's `value` on all ranks, for decisions that must be the same."""
    if world.size == 1:
        return value
    # As an integer, because MPS does not have float64.
    bits = torch.tensor([value], dtype=torch.float64).view(torch.int64).to(device)
    dist.broadcast(bits, src=0)
    return float(bits.cpu().view(torch.float64))


def any_of(value: bool, world: World, device: torch.device) -> bool:
    """Whether `value` is true on any rank; the same on all ranks."""
    if world.size == 1:
        return value
    shared = torch.tensor([float(value)], device=device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return bool(shared)


def wait_for_all(world: World) -> None:
    """Wait until all ranks have called this."""
    if world.size > 1:
        dist.barrier()
