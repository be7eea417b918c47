"""How long a run has taken, over all the processes that trained it, and how fast its steps are."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import deque
from collections.abc import Iterator

REMEMBERED_STEPS = 1024
FEWEST_STEPS = 3  # of which a speed is told
MOST_STEP_RATIO = (
    5.0  # times the median of the newest ones: a longer step was suspended, and says nothing about the next (guess)
)


class Clock:
    """Runs from when it is made; `before`: seconds trained until then."""

    def __init__(self, before: float = 0.0) -> None:
        self.before, self._made_at = before, time.perf_counter()
        self.begin(0)

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self._made_at

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

    def lap(self, step: int) -> float:
        """Steps per second since the last call."""
        steps, seconds = step - self._lap_step, time.perf_counter() - self._lap_at
        self._lap_step, self._lap_at = step, time.perf_counter()
        return steps / max(seconds, 1e-9)
