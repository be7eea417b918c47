"""Opening a model needs little more memory than its weights in float32."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from simplellm.data.tokenizer import Tokenizer
from tests.model_folders import save_model

MEASURE = """
import json, resource, sys, torch
from pathlib import Path
from simplellm.checkpoint.step_folder import open_model
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
torch.set_num_threads(1)
before = resident()
model = open_model(Path(sys.argv[1]), torch.device("cpu")).model
print(json.dumps([peak() - before, 4 * model.n_parameters]))
"""


@pytest.mark.slow
@pytest.mark.usefixtures("transformers")
@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory from /proc")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_weights_are_in_memory_once(
    dtype: torch.dtype, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """60 MB of weights, and a config that says 40,960 positions."""
    save_model(
        tmp_path, "Llama", tokenizer, dtype,
        hidden_size=512, intermediate_size=1536, num_hidden_layers=5, num_attention_heads=8,
        max_position_embeddings=40_960,
    )  # fmt: skip
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    used, weights = json.loads(done.stdout)
    assert weights > 60e6
    assert used < 1.5 * weights
