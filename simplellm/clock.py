"""How long a run has taken, over all the processes that trained it, and how fast its steps are."""

from __future__ import annotations

import math
import time


class Clock:
    """Runs from when it is made; `before`: seconds trained until then."""

    def __init__(self, before: float = 0.0) -> None:
        self.before, self._made_at = before, time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self._made_at

    def begin(self, step: int) -> None:
        """Training goes on from `step` now."""
        self._lap_step, self._lap_at = step, time.perf_counter()
        self._first_step, self._first_step_at = step + 1, math.inf

    def tick(self) -> None:
        """Called after each step."""
        self._first_step_at = min(self._first_step_at, time.perf_counter())

    def seconds_per_step(self, step: int) -> float:
        """Since `begin`, evaluations and saves included, but not the first step, which may have to compile."""
        return (time.perf_counter() - self._first_step_at) / max(step - self._first_step, 1)

    def lap(self, step: int) -> float:
        """Steps per second since the last call."""
        steps, seconds = step - self._lap_step, time.perf_counter() - self._lap_at
        self._lap_step, self._lap_at = step, time.perf_counter()
        return steps / max(seconds, 1e-9)
