"""Processor time used by all programs of the machine, from /proc/stat."""

from __future__ import annotations

import os
from pathlib import Path

PROC_STAT = Path("/proc/stat")


def busy_seconds(processors: set[int] | None = None) -> float | None:
    """Seconds since boot in which `processors` were not idle, added up; None where it is unknown.

    processors: by default those that this process may use. Time that a hypervisor gave to other
    machines counts as busy.
    """
    try:
        processors = os.sched_getaffinity(0) if processors is None else processors
        lines = PROC_STAT.read_text(encoding="ascii").splitlines()
        ticks = 0
        for name, *times in (line.split() for line in lines if line.startswith("cpu")):
            if name != "cpu" and int(name[3:]) in processors:
                user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, times)
                ticks += user + nice + system + irq + softirq + steal
        return ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return None
