"""OpenMP threads that wait spinning on a quiet machine, and asleep on a busy one.

After each parallel loop the threads of OpenMP wait at a barrier. By default they spin there for
milliseconds. On a busy machine a spinning thread uses up the time slice that the thread it waits
for needs, and training becomes three to five times slower. Threads that sleep at once cost 5 to 15%
on a quiet machine (measurements: docs/performance.md).

libgomp, which torch uses on Linux, reads its spin count once, when it is loaded. But it also has a
second, 3000 times lower one (`gomp_throttled_spin_count_var`), which applies while there are more
OpenMP threads than processors. A second team of idle threads is enough to select it. The number of
threads that compute stays the same, and so do all sums: results do not depend on the load.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator

from simplellm.config.processor_time import busy_seconds
from simplellm.training.clock import every

CHECK_SECONDS = 0.5
BUSY_CORES = 0.3  # used by other programs: from here on the machine counts as busy (guess)
QUIET_CORES = 0.15  # below, it counts as quiet (guess)
QUIET_CHECKS = 2  # in a row, before threads spin again
USER_CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
HELD_ELEMENTS = 1 << 20  # of a tensor: large enough that torch adds to it with all threads


@contextlib.contextmanager
def adapted_to_load() -> Iterator[None]:
    """Within the block OpenMP threads sleep at barriers while other programs use the processors.

    No effect where an environment variable sets how they wait, where torch uses one thread, and on
    systems without /proc/stat.
    """
    import torch

    busy = busy_seconds()
    is_chosen = any(name in os.environ for name in USER_CHOICES)
    if is_chosen or torch.get_num_threads() == 1 or busy is None:
        yield
        return
    meter = LoadMeter(busy, time.process_time(), time.perf_counter())
    throttled = contextlib.ExitStack()

    def check() -> None:
        was_busy, busy = meter.is_busy, busy_seconds()
        if busy is None:
            return
        is_busy = meter.update(busy, time.process_time(), time.perf_counter())
        if is_busy and not was_busy:
            throttled.enter_context(spinning_throttled())
        elif was_busy and not is_busy:
            throttled.close()

    with throttled, every(CHECK_SECONDS, check):
        yield


class LoadMeter:
    """Whether other programs keep the processors busy, from periodic measurements.

    busy: seconds that the processors were in use; own: of these, by this process; now: a clock.
    """

    def __init__(self, busy: float, own: float, now: float) -> None:
        self._last = busy, own, now
        self._quiet_checks = 0
        self.is_busy = False

    def update(self, busy: float, own: float, now: float) -> bool:
        busy_before, own_before, before = self._last
        self._last = busy, own, now
        cores = ((busy - busy_before) - (own - own_before)) / max(now - before, 1e-9)
        self._quiet_checks = self._quiet_checks + 1 if cores < QUIET_CORES else 0
        self.is_busy = cores >= BUSY_CORES or (self.is_busy and self._quiet_checks < QUIET_CHECKS)
        return self.is_busy


@contextlib.contextmanager
def spinning_throttled() -> Iterator[None]:
    """Within the block a second team of OpenMP threads makes libgomp use its low spin count."""
    ready, end = threading.Event(), threading.Event()

    def hold() -> None:
        import torch

        torch.zeros(HELD_ELEMENTS).add_(1.0)  # creates the team; it is freed with this thread
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
