"""Where it runs and in what number format. No other file asks what hardware there is."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import noop_context_fn

from simplellm.errors import DeviceError, DeviceFailure, SettingError

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # glibc, malloc.h
PROBED_PRODUCT = ((768, 128), (128, 512))  # about what a small model multiplies
SPEED_PROBE_SIZE, REFERENCE_FLOPS = 1024, 9e11
FEWEST_PROBES, MOST_PROBES, PROBE_SECONDS, PROBE_PAUSE_SECONDS = 5, 25, 0.3, 0.005
NAMES = {"cuda": "CUDA device", "mps": "Apple GPU", "cpu": "CPU"}
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Context = contextlib.AbstractContextManager[None]


def choose_device(wish: str = "auto") -> torch.device:
    """The device named, or the best there is: CUDA, then MPS, then CPU. DeviceError when it is not there.

    A device that is not a candidate is not asked for: a first question may initialize its driver.
    """
    if wish == "auto":
        return torch.device(next(name for name in NAMES if _is_present(name)))
    if not _is_present(wish):
        there = ", ".join(name for name in NAMES if _is_present(name))
        raise DeviceError(
            f"this machine has no {wish} device that torch can use",
            fix=f"use --device auto ({there})",
        )
    return torch.device(wish)


def _is_present(name: str) -> bool:
    if name == "cuda":
        return torch.cuda.is_available()
    return name == "cpu" or torch.backends.mps.is_available()


@contextlib.contextmanager
def failures_reported(device: torch.device, fix: str = "use --device cpu") -> Iterator[None]:
    """Within the block an error that torch raises on a GPU becomes a DeviceFailure of one line.

    On the CPU such an error is a fault of this package and passes unchanged.
    """
    try:
        yield
    except (RuntimeError, TypeError) as error:  # NotImplementedError is a RuntimeError
        if device.type == "cpu":
            raise
        why = (str(error).splitlines() or [type(error).__name__])[0][:200]
        what = f"the {NAMES[device.type]} failed: {why}"
        raise (DeviceError if is_out_of_memory(error) else DeviceFailure)(what, fix=fix) from error


def choose_precision(device: torch.device, wish: str = "auto") -> str:
    """float32, bf16 or fp16. On a CPU `auto` is float32; see `trainer` for the measurement that may prefer bf16."""
    if wish == "auto":
        if device.type == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        return "float32"
    if wish == "fp16" and device.type == "cpu":
        raise SettingError(
            "precision fp16 needs a GPU, got a cpu", fix="use --precision bf16 or float32"
        )
    return wish


def has_fast_bf16(device: torch.device) -> bool:
    """Whether this CPU multiplies bf16 in hardware, so that measuring it is worth the time."""
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def reuse_freed_memory() -> None:
    """Let the C library keep large blocks that were freed, instead of giving each back to the system.

    A training step allocates the same large tensors again and again; with glibc's defaults each is mapped anew and
    every page of it faults once: 10 to 13% of a step of 4x256 on 2 cores. Where there is no glibc, nothing happens:
    Windows has no handle of the program itself (CDLL(None) raises TypeError), macOS and musl have no mallopt.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in (
            (M_MMAP_THRESHOLD, 1 << 30),
            (M_TRIM_THRESHOLD, (1 << 31) - 1),
            (M_TOP_PAD, 1 << 26),
        ):
            mallopt(parameter, value)


@contextlib.contextmanager
def fast_float32(device: torch.device) -> Iterator[None]:
    """Within the block, large float32 matrix products take the fastest way that is still float32.

    torch multiplies float32 with MKL, which uses less than half of what other makers' CPUs can do, and goes to
    oneDNN only where it may round the inputs ("medium"). Without units for rounded inputs (AMX) oneDNN computes
    in full float32 all the same: 245 against 107 GFLOP/s on one core of a Zen 5. Whether it does is looked at.
    """
    if device.type != "cpu" or not _onednn_is_exact():
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@functools.cache
def _onednn_is_exact() -> bool:
    """By its errors, not its speed: a run that is resumed must come to the same answer, however busy the machine is."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator) for shape in PROBED_PRODUCT)
    truth, errors, before = a.double() @ b.double(), {}, torch.get_float32_matmul_precision()
    for way in ("highest", "medium"):
        torch.set_float32_matmul_precision(way)
        errors[way] = float((a @ b - truth).abs().max())
    torch.set_float32_matmul_precision(before)
    return errors["medium"] < 4 * errors["highest"]


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


def grad_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """Scales the loss so that fp16 gradients do not vanish; does nothing for the other formats."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def describe(device: torch.device, precision: str) -> str:
    """One line: what was chosen."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif device.type == "mps":
        name = NAMES["mps"]
    else:
        name = f"{torch.get_num_threads()} cores"
    return f"{device.type} ({name}), {precision}"


def seed_dropout(device: torch.device, *place: int) -> None:
    """Make what the model drops next on `device` a pure function of `place`: seed, step, micro step, rank."""
    seed = int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> np.uint64(1))
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)  # `torch.manual_seed` seeds every kind of device
    elif device.type == "cuda":
        torch.cuda.manual_seed(seed)
    else:
        torch.mps.manual_seed(seed)


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on `device`; CUDA copies from pinned memory while the host goes on."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def recompute_contexts(device: torch.device) -> Callable[[], tuple[Context, Context]]:
    """The `context_fn` of torch.utils.checkpoint that makes the second computation drop what the first one dropped.

    torch restores the random state of CUDA and of the CPU itself, but not that of MPS.
    """
    if device.type != "mps":
        return noop_context_fn

    def contexts() -> tuple[Context, Context]:
        return contextlib.nullcontext(), _mps_random_state(torch.mps.get_rng_state())

    return contexts


@contextlib.contextmanager
def _mps_random_state(state: Tensor) -> Iterator[None]:
    before = torch.mps.get_rng_state()
    torch.mps.set_rng_state(state)
    try:
        yield
    finally:
        torch.mps.set_rng_state(before)


def relative_speed(device: torch.device) -> float:
    """About how fast this device multiplies matrices, in the speed of the 2 CPU cores that the recipe was tried on.

    The fastest of many short products: other programs can make one slower, never faster. The pauses let them use up
    their turn, so that a product that follows has the processor for itself.
    """
    dtype = torch.bfloat16 if device.type == "cuda" or has_fast_bf16(device) else torch.float32
    matrix = torch.ones(SPEED_PROBE_SIZE, SPEED_PROBE_SIZE, dtype=dtype, device=device)
    seconds: list[float] = []
    while len(seconds) < FEWEST_PROBES or (
        len(seconds) < MOST_PROBES and sum(seconds) < PROBE_SECONDS
    ):
        synchronize(device)
        started_at = time.perf_counter()
        matrix @ matrix  # noqa: B018
        synchronize(device)
        seconds.append(time.perf_counter() - started_at)
        time.sleep(PROBE_PAUSE_SECONDS)
    return 2 * SPEED_PROBE_SIZE**3 / min(seconds) / REFERENCE_FLOPS


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: CUDA has a type for it, the CPU allocator only words."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        part in str(error) for part in words
    )


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory held so far: the device's on CUDA, the process's elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0  # the standard library cannot tell
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was asked, so that a clock read next is true."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
