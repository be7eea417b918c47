"""Time of a run: seconds over all its processes, current seconds per step, and suspensions."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

REMEMBERED_STEPS = 1024
MIN_STEPS = 3  # for a mean
MAX_STEP_RATIO = 5.0  # to the median of the newest steps: a longer step was suspended (guess)
BEAT_SECONDS = 0.25
MIN_SUSPENSION = 2.0  # seconds between two beats from which the process may have been suspended
SUSPENDED_SHARE = 0.1  # of one processor: a process that used more was not suspended (guess)


class Clock:
    """Counts the seconds of a run, from its construction.

    before: seconds of the run until then.
    """

    def __init__(self, before: float = 0.0) -> None:
        self.before = before
        self._started_at = time.perf_counter()
        self._suspended: Callable[[], float] = lambda: 0.0
        self.begin(0)

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self._started_at - self._suspended()

    def leave_out(self, suspended: Callable[[], float]) -> None:
        """From now on, do not count the seconds that `suspended` returns."""
        until_now = suspended()
        self._suspended = lambda: suspended() - until_now

    def begin(self, step: int) -> None:
        """Start timing steps; `step` are done already."""
        self._lap_step = step
        self._lap_at = time.perf_counter()
        self._steps: deque[float] = deque(maxlen=REMEMBERED_STEPS)
        self._is_first = True

    @contextlib.contextmanager
    def timed_step(self) -> Iterator[None]:
        """Time the step in the block. The first one is not counted: it may have to compile."""
        started_at = time.perf_counter()
        yield
        if not self._is_first:
            self._steps.append(time.perf_counter() - started_at)
        self._is_first = False

    def step_seconds(self, window: float) -> float | None:
        """Mean seconds of the steps of the last `window` seconds; None before MIN_STEPS steps."""
        if len(self._steps) < MIN_STEPS:
            return None
        longest = MAX_STEP_RATIO * statistics.median(list(self._steps)[-MIN_STEPS:])
        total, count = 0.0, 0
        for seconds in reversed(self._steps):
            total += min(seconds, longest)
            count += 1
            if total >= window and count >= MIN_STEPS:
                break
        return total / count

    def slowdown(self, window: float) -> float:
        """Mean seconds of the steps of the last `window` seconds, divided by the shortest step."""
        if len(self._steps) < MIN_STEPS:
            return 1.0
        return (self.step_seconds(window) or 1.0) / min(self._steps)

    def lap(self, step: int) -> float:
        """Steps per second since the last call."""
        steps, seconds = step - self._lap_step, time.perf_counter() - self._lap_at
        self._lap_step = step
        self._lap_at = time.perf_counter()
        return steps / max(seconds, 1e-9)


@contextlib.contextmanager
def every(seconds: float, call: Callable[[], object]) -> Iterator[None]:
    """Within the block a thread repeats the call, `seconds` after the last one returned."""
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
    """Measures how long this process is suspended (SIGSTOP, Ctrl-Z, a machine asleep) in a block.

    A thread beats four times a second. A long gap between two beats in which the process used no
    processor is a suspension. A busy machine, a slow disk and long computations are not.
    """

    def __init__(self) -> None:
        self._suspended = 0.0
        self._last = time.perf_counter(), time.process_time()
        self._lock = threading.Lock()
        self._thread = contextlib.ExitStack()

    def suspended(self) -> float:
        """Seconds of suspension until now."""
        with self._lock:
            now, used = time.perf_counter(), time.process_time()
            gap = now - self._last[0] - BEAT_SECONDS
            if gap > MIN_SUSPENSION and used - self._last[1] < SUSPENDED_SHARE * gap:
                self._suspended += gap
            self._last = now, used
            return self._suspended

    def __enter__(self) -> Heartbeat:
        self._last = time.perf_counter(), time.process_time()
        self._thread.enter_context(every(BEAT_SECONDS, self.suspended))
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.close()
