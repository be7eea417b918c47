"""On how many processes it runs. Every function is a no-op at world size 1, so that callers have one path.

Start with `torchrun --nproc-per-node N -m simplellm train ...`.
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

MOST_GRADIENTS = (
    1 << 25
)  # sent at once: fewer messages are faster, and what is sent is a copy (128 MB)
PATIENCE = timedelta(
    hours=6
)  # with the others: the main process may prepare a large text, or score a large model, alone


@dataclass(frozen=True)
class World:
    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """The processes torchrun started, joined for the length of the block; World(0, 1) without torchrun."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def average_gradients(model: nn.Module, world: World) -> None:
    """Make every rank's gradients the mean over the ranks."""
    if world.size == 1:
        return
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    while gradients:
        n, total = 1, gradients[0].numel()
        while n < len(gradients) and total + gradients[n].numel() <= MOST_GRADIENTS:
            total += gradients[n].numel()
            n += 1
        _average(gradients[:n], world.size)
        gradients = gradients[n:]


def _average(tensors: list[Tensor], n_ranks: int) -> None:
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat.div_(n_ranks)
    for tensor, part in zip(
        tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True
    ):
        tensor.copy_(part.view_as(tensor))


def mean(value: Tensor, world: World) -> Tensor:
    """The mean of a scalar over the ranks."""
    if world.size > 1:
        dist.all_reduce(value)
        value = value / world.size
    return value


def from_main(value: float, world: World, device: torch.device) -> float:
    """The main rank's `value`, on every rank: for decisions that all must take alike."""
    if world.size == 1:
        return value
    bits = (
        torch.tensor([value], dtype=torch.float64).view(torch.int64).to(device)
    )  # not every device has float64
    dist.broadcast(bits, src=0)
    return float(bits.cpu().view(torch.float64))


def any_of(value: bool, world: World, device: torch.device) -> bool:
    """Whether it is true on any rank: one answer for all of them."""
    if world.size == 1:
        return value
    shared = torch.tensor([float(value)], device=device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return bool(shared)


def wait_for_all(world: World) -> None:
    if world.size > 1:
        dist.barrier()
