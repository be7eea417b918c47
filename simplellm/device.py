"""Devices and precision. Only this module queries the hardware."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import noop_context_fn

from simplellm.errors import (
    OUT_OF_MEMORY_FIX,
    DeviceError,
    DeviceFailure,
    SettingError,
    is_out_of_memory,
    out_of_memory,
)

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # glibc, malloc.h
PROBE_SHAPES = ((768, 128), (128, 512))  # a matrix product of a small model
SPEED_PROBE_SIZE = 1024
REFERENCE_FLOPS = 9e11  # per second, of the 2 CPU cores on which the recipe was measured
MIN_PROBES = 5
MAX_PROBES = 25
PROBE_SECONDS = 0.3  # in total, after MIN_PROBES
PROBE_PAUSE_SECONDS = 0.005
NAMES = {"cuda": "CUDA device", "mps": "Apple GPU", "cpu": "CPU"}
MEMORY_FILE = Path("/proc/meminfo")
MEMORY_LIMIT_FILES = (  # of control groups, versions 2 and 1
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Context = contextlib.AbstractContextManager[None]


def choose_device(requested: str = "auto") -> torch.device:
    """The requested device; "auto" is the first available one of CUDA, MPS and CPU.

    DeviceError if it is not available. Only candidates are queried, because a query may initialize
    the driver.
    """
    if requested == "auto":
        return torch.device(next(name for name in NAMES if _is_available(name)))
    if not _is_available(requested):
        available = ", ".join(name for name in NAMES if _is_available(name))
        raise DeviceError(
            f"this machine has no {requested} device that torch can use",
            fix=f"use --device auto ({available})",
        )
    return torch.device(requested)


def use_gpu(number: int) -> None:
    """Make a GPU the current one of this process; SettingError if there are fewer."""
    count = torch.cuda.device_count()
    if number >= count:
        raise SettingError(
            f"the environment variable LOCAL_RANK is {number}, but this machine has {count} GPUs",
            fix=f"start at most {count} processes on this machine",
        )
    torch.cuda.set_device(number)


def _is_available(name: str) -> bool:
    if name == "cuda":
        return torch.cuda.is_available()
    return name == "cpu" or torch.backends.mps.is_available()


@contextlib.contextmanager
def failures_reported(device: torch.device, fix: str = "use --device cpu") -> Iterator[None]:
    """Context manager: an error that torch raises on a GPU becomes a one-line DeviceFailure.

    If memory is exhausted, on a GPU or on the CPU, it becomes a DeviceError. Any other error on the
    CPU is a bug of this package and passes unchanged.
    """
    try:
        yield
    # torch raises NotImplementedError (a RuntimeError) for an operator that the GPU lacks, and
    # TypeError for a number format that it lacks, such as float64 on MPS.
    except (RuntimeError, TypeError, ValueError, MemoryError) as error:
        if device.type == "cpu" or isinstance(error, ValueError | MemoryError):
            if is_out_of_memory(error):
                raise out_of_memory(error) from error
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        what = f"the {NAMES[device.type]} failed: {reason}"
        raise (DeviceError if is_out_of_memory(error) else DeviceFailure)(what, fix=fix) from error


def choose_precision(device: torch.device, requested: str = "auto") -> str:
    """float32, bf16 or fp16. On a CPU "auto" is float32; a measurement may prefer bf16 later."""
    if requested == "auto":
        if device.type == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        return "float32"
    if requested == "fp16" and device.type == "cpu":
        raise SettingError(
            "precision fp16 needs a GPU, got a cpu", fix="use --precision bf16 or float32"
        )
    return requested


def has_fast_bf16(device: torch.device) -> bool:
    """Whether this CPU multiplies bf16 in hardware, so that it may be faster than float32."""
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def reuse_freed_memory() -> None:
    """Make glibc reuse large freed blocks instead of returning each to the operating system.

    Every training step allocates the same large tensors. By default glibc maps new memory for each,
    and every page faults once: 10 to 13% of a step of a 4x256 model on 2 cores. Does nothing
    without glibc: on Windows CDLL(None) raises TypeError; macOS and musl have no mallopt.
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


def return_freed_memory() -> None:
    """Give freed memory back to the operating system, which `reuse_freed_memory` prevents.

    For after a large model was opened and converted; does nothing without glibc.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def fast_float32(device: torch.device) -> Iterator[None]:
    """Context manager: faster float32 matrix products on CPUs where their precision is the same.

    torch multiplies float32 with MKL, which is slow on AMD CPUs. It uses oneDNN only if rounded
    inputs are allowed ("medium"). On CPUs without units for rounded inputs (AMX), oneDNN computes
    in full float32 anyway: 245 instead of 107 GFLOP/s on one core of a Zen 5. This is checked by
    `_onednn_is_exact`.
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
    """Whether oneDNN computes in full float32.

    Decided by its errors and not by its speed: a resumed run must decide the same under any load.
    """
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator) for shape in PROBE_SHAPES)
    exact = a.double() @ b.double()
    errors: dict[str, float] = {}
    before = torch.get_float32_matmul_precision()
    for precision in ("highest", "medium"):
        torch.set_float32_matmul_precision(precision)
        errors[precision] = float((a @ b - exact).abs().max())
    torch.set_float32_matmul_precision(before)
    return errors["medium"] < 4 * errors["highest"]


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


def grad_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """Loss scaling for fp16, whose gradients would underflow; disabled for other precisions."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def describe(device: torch.device, precision: str) -> str:
    """Device and precision in one line."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif device.type == "mps":
        name = NAMES["mps"]
    else:
        n_cores = torch.get_num_threads()
        name = "1 core" if n_cores == 1 else f"{n_cores} cores"
    return f"{device.type} ({name}), {precision}"


def seed_dropout(device: torch.device, *key: int) -> None:
    """Seed the dropout on `device` by `key`: seed, step, micro step, rank."""
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)  # `torch.manual_seed` would seed all devices
    elif device.type == "cuda":
        torch.cuda.manual_seed(seed)
    else:
        torch.mps.manual_seed(seed)


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to `device`; for CUDA asynchronously from pinned memory."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def recompute_contexts(device: torch.device) -> Callable[[], tuple[Context, Context]]:
    """`context_fn` for torch.utils.checkpoint: the recomputation uses the same dropout masks.

    torch itself restores the random state of the CPU and of CUDA, but not of MPS.
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
    """Speed of matrix products, relative to the 2 CPU cores on which the recipe was measured.

    The fastest of several short products: other programs can only slow them down. During the pauses
    these use up their time slices, so that the next product is not interrupted.
    """
    dtype = torch.bfloat16 if device.type == "cuda" or has_fast_bf16(device) else torch.float32
    matrix = torch.ones(SPEED_PROBE_SIZE, SPEED_PROBE_SIZE, dtype=dtype, device=device)
    seconds: list[float] = []
    while len(seconds) < MIN_PROBES or (len(seconds) < MAX_PROBES and sum(seconds) < PROBE_SECONDS):
        synchronize(device)
        started_at = time.perf_counter()
        matrix @ matrix  # noqa: B018
        synchronize(device)
        seconds.append(time.perf_counter() - started_at)
        time.sleep(PROBE_PAUSE_SECONDS)
    return 2 * SPEED_PROBE_SIZE**3 / min(seconds) / REFERENCE_FLOPS


def require_memory(n_bytes: float, device: torch.device) -> None:
    """DeviceError where the CPU has less memory than `n_bytes`, which is a lower bound.

    Linux would give the memory out and then kill the process, or another one. A GPU refuses.
    """
    free = free_memory_bytes() if device.type == "cpu" else None
    if free is not None and n_bytes > free:
        raise DeviceError(
            f"out of memory: at least {n_bytes / 1e9:,.1f} GB are needed, "
            f"{free / 1e9:,.1f} GB are free",
            fix=OUT_OF_MEMORY_FIX,
        )


def free_memory_bytes() -> int | None:
    """Free memory with swap, and within the limit of a Linux control group; None if unknown."""
    try:
        lines = MEMORY_FILE.read_text(encoding="utf-8").splitlines()
        kilobytes = {
            name: int(rest.split()[0]) for name, _, rest in (s.partition(":") for s in lines)
        }
        free = 1024 * (kilobytes["MemAvailable"] + kilobytes["SwapFree"])
    except (OSError, ValueError, LookupError):
        return None
    for path in MEMORY_LIMIT_FILES:
        with contextlib.suppress(OSError, ValueError):  # "max": no limit
            free = min(free, int(path.read_text(encoding="utf-8")))
    return free


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory so far: of the device on CUDA, else of the process (0 on Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0  # the standard library has no function for it
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def synchronize(device: torch.device) -> None:
    """Wait for all queued work of the device, before a clock is read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
