"""How long a run has taken, over all the processes that trained it, how fast its steps are, and suspensions."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

REMEMBERED_STEPS = 1024
FEWEST_STEPS = 3  # of which a speed is told
MOST_STEP_RATIO = 5.0  # times the median of the newest: a longer step was suspended (guess)


BEAT_SECONDS = 0.25
LEAST_SUSPENSION = 2.0  # seconds between two beats from which the process may have been suspended
SUSPENDED_SHARE = (
    0.1  # of one processor: a process that used more in that time was busy, not suspended (guess)
)


class Clock:
    """Runs from when it is made; `before`: seconds trained until then. Suspensions may be left out, see `leave_out`."""

    def __init__(self, before: float = 0.0) -> None:
        self.before, self._made_at = before, time.perf_counter()
        self._suspended: Callable[[], float] = lambda: 0.0
        self.begin(0)

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self._made_at - self._suspended()

    def leave_out(self, suspended: Callable[[], float]) -> None:
        """Do not count the seconds that `suspended` returns, from now on."""
        until_now = suspended()
        self._suspended = lambda: suspended() - until_now

    def begin(self, step: int) -> None:
        """Training goes on from `step` now."""
        self._lap_step, self._lap_at = step, time.perf_counter()
        self._steps: deque[float] = deque(maxlen=REMEMBERED_STEPS)
        self._is_first = True

    @contextlib.contextmanager
    def timed_step(self) -> Iterator[None]:
        """Around each step. The first one is not counted: it may have to compile."""
        started_at = time.perf_counter()
        yield
        if not self._is_first:
            self._steps.append(time.perf_counter() - started_at)
        self._is_first = False

    def step_seconds(self, window: float) -> float | None:
        """Mean seconds of the steps of the last `window` seconds; None before there are enough of them."""
        if len(self._steps) < FEWEST_STEPS:
            return None
        longest = MOST_STEP_RATIO * statistics.median(list(self._steps)[-FEWEST_STEPS:])
        total, count = 0.0, 0
        for seconds in reversed(self._steps):
            total, count = total + min(seconds, longest), count + 1
            if total >= window and count >= FEWEST_STEPS:
                break
        return total / count

    def slowdown(self, window: float) -> float:
        """How many times as long the steps of the last `window` seconds took as the fastest one."""
        return (
            (self.step_seconds(window) or 1.0) / min(self._steps)
            if len(self._steps) >= FEWEST_STEPS
            else 1.0
        )

    def lap(self, step: int) -> float:
        """Steps per second since the last call."""
        steps, seconds = step - self._lap_step, time.perf_counter() - self._lap_at
        self._lap_step, self._lap_at = step, time.perf_counter()
        return steps / max(seconds, 1e-9)


@contextlib.contextmanager
def every(seconds: float, call: Callable[[], object]) -> Iterator[None]:
    """Within the block a thread makes this call again and again, so many seconds after the last one returned."""
    end = threading.Event()

    def run() -> None:
        while not end.wait(seconds):
            call()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


class Heartbeat:
    """Measures how long this process was suspended (SIGSTOP, Ctrl-Z, a machine asleep) while the block it opens runs.

    A thread beats four times a second. Two beats far apart, between which the process used no processor, show a
    suspension. A busy machine, a slow disk and long computations do not.
    """

    def __init__(self) -> None:
        self._suspended = 0.0
        self._last = time.perf_counter(), time.process_time()
        self._lock, self._beating = threading.Lock(), contextlib.ExitStack()

    def suspended(self) -> float:
        """Seconds until now."""
        with self._lock:
            now, used = time.perf_counter(), time.process_time()
            gap = now - self._last[0] - BEAT_SECONDS
            if gap > LEAST_SUSPENSION and used - self._last[1] < SUSPENDED_SHARE * gap:
                self._suspended += gap
            self._last = now, used
            return self._suspended

    def __enter__(self) -> Heartbeat:
        self._last = time.perf_counter(), time.process_time()
        self._beating.enter_context(every(BEAT_SECONDS, self.suspended))
        return self

    def __exit__(self, *_: object) -> None:
        self._beating.close()
