"""On a machine with a GPU: training, resuming and evaluating on the real device."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "gpu_check.py"


def test_the_gpu_trains_resumes_exactly_and_evaluates_like_the_cpu() -> None:
    if not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        pytest.skip(
            "THERE IS NO GPU HERE: only the imitated devices of "
            "tests/test_imitated_devices.py were checked"
        )
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
