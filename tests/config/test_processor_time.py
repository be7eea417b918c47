"""Busy processor time is read from /proc/stat, or unknown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from simplellm.config import processor_time
from simplellm.config.processor_time import busy_seconds

STAT = """cpu  900 0 0 9000 0 0 0 0 0 0
cpu0 100 10 20 4000 5 3 2 40 0 0
cpu1 200 0 0 4000 0 0 0 0 0 0
cpu2 600 0 0 1000 0 0 0 0 0 0
intr 5389557 0
"""


@pytest.fixture
def stat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "stat"
    path.write_text(STAT)
    monkeypatch.setattr(processor_time, "PROC_STAT", path)
    monkeypatch.setattr(os, "sysconf", lambda name: 100, raising=False)
    return path


def test_idle_and_waiting_time_is_not_busy_and_stolen_time_is(stat: Path) -> None:
    assert busy_seconds({0}) == 1.75
    assert busy_seconds({1, 2}) == 8.0
    assert busy_seconds(set()) == 0


@pytest.mark.parametrize(
    "content", ["cpu0 1 2\n", "cpuX 1 2 3 4 5 6 7 8\n", "cpu0 a b c d e f g h\n"]
)
def test_busy_time_is_unknown_where_the_file_has_another_format(stat: Path, content: str) -> None:
    stat.write_text(content)
    assert busy_seconds({0}) is None


def test_busy_time_is_unknown_without_the_file(stat: Path) -> None:
    stat.unlink()
    assert busy_seconds({0}) is None


def test_busy_time_is_unknown_where_the_processors_of_the_process_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert busy_seconds() is None
