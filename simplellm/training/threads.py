"""How the threads of torch wait for each other: spinning while the machine is quiet, asleep while it is busy.

After each parallel loop the threads of OpenMP wait at a barrier. By default they spin there for milliseconds. On a busy
machine a spinning thread uses up the time slice that the thread it waits for needs, and training becomes three to five
times slower. A thread that sleeps at once costs 5 to 15% where the machine is quiet (docs/speed.md has measurements).

libgomp, which torch uses on Linux, reads its spin count once, when it is loaded. But it also has a second, 3000 times
lower one (`gomp_throttled_spin_count_var`), for as long as there are more OpenMP threads than processors. A second team
of threads that does nothing is enough to choose it. The number of threads that compute stays the same, and with it each
sum, so that a run is the same on a quiet and on a busy machine.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, MutableMapping
from pathlib import Path

from simplellm.training.clock import every

LOOK_SECONDS = 0.5
BUSY_CORES, QUIET_CORES = (
    0.3,
    0.15,
)  # used by others: from the first on the machine is busy, below the second it is quiet
QUIET_LOOKS = 2  # in a row, before threads spin again
PROCESSOR_TIMES = Path("/proc/stat")
USER_CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
SHORT_SPIN = "1000"  # rounds, about 10 microseconds, instead of 300,000
HELD_ELEMENTS = 1 << 20  # of a tensor: enough that torch adds to it with all threads


def set_defaults(environment: MutableMapping[str, str]) -> None:
    """Settings that libraries read when they are imported; what a user has set stays.

    numpy's BLAS gets one thread, which reads memory as fast as it comes while a reply is decoded. OpenMP of LLVM and
    Intel (torch on macOS and Windows) sleeps at once instead of after 200 ms. libgomp spins briefly where
    `adapted_to_load` cannot look at the machine.
    """
    environment.setdefault("OPENBLAS_NUM_THREADS", "1")
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("KMP_BLOCKTIME", "0")
        if busy_seconds() is None:
            environment.setdefault("GOMP_SPINCOUNT", SHORT_SPIN)


@contextlib.contextmanager
def adapted_to_load() -> Iterator[None]:
    """Within the block OpenMP threads sleep at barriers while other programs keep the machine busy.

    No effect where the user chose how they wait, where torch uses one thread, and on systems without /proc/stat.
    """
    import torch

    busy = busy_seconds()
    if (
        any(name in os.environ for name in USER_CHOICES)
        or torch.get_num_threads() == 1
        or busy is None
    ):
        yield
        return
    meter, asleep = (
        LoadMeter(busy, time.process_time(), time.perf_counter()),
        contextlib.ExitStack(),
    )

    def look() -> None:
        was_busy, busy = meter.is_busy, busy_seconds()
        if busy is None:
            return
        is_busy = meter.look(busy, time.process_time(), time.perf_counter())
        if is_busy and not was_busy:
            asleep.enter_context(spinning_throttled())
        elif was_busy and not is_busy:
            asleep.close()

    with asleep, every(LOOK_SECONDS, look):
        yield


class LoadMeter:
    """Tells, from one look to the next, whether others keep the processors busy."""

    def __init__(self, busy: float, own: float, now: float) -> None:
        """`busy`: seconds that our processors were in use; `own`: those that this process used; `now`: a clock."""
        self._last = busy, own, now
        self._quiet_looks = 0
        self.is_busy = False

    def look(self, busy: float, own: float, now: float) -> bool:
        busy_before, own_before, before = self._last
        self._last = busy, own, now
        cores = ((busy - busy_before) - (own - own_before)) / max(now - before, 1e-9)
        self._quiet_looks = self._quiet_looks + 1 if cores < QUIET_CORES else 0
        self.is_busy = cores >= BUSY_CORES or (self.is_busy and self._quiet_looks < QUIET_LOOKS)
        return self.is_busy


def busy_seconds(processors: set[int] | None = None) -> float | None:
    """Seconds since the start of the machine in which those processors (default: ours) did not idle; None if unknown.

    Time that a hypervisor gave to other machines counts: to a spinning thread it is the same.
    """
    try:
        processors = os.sched_getaffinity(0) if processors is None else processors
        lines = PROCESSOR_TIMES.read_text(encoding="ascii").splitlines()
        ticks = 0
        for name, *times in (line.split() for line in lines if line.startswith("cpu")):
            if name != "cpu" and int(name[3:]) in processors:
                user, nice, system, _idle, _wait, irq, softirq, steal, *_ = map(int, times)
                ticks += user + nice + system + irq + softirq + steal
        return ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return None


@contextlib.contextmanager
def spinning_throttled() -> Iterator[None]:
    """Within the block a second team of OpenMP threads exists, which makes libgomp use its low spin count for all."""
    ready, end = threading.Event(), threading.Event()

    def hold() -> None:
        import torch

        torch.zeros(HELD_ELEMENTS).add_(1.0)  # makes the team; it is freed when this thread ends
        ready.set()
        end.wait()

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    ready.wait()
    try:
        yield
    finally:
        end.set()
        holder.join()
