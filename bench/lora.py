"""Compares a LoRA training step here with one of `peft` in a plain PyTorch loop.

    python bench/lora.py MODEL --rounds 5

MODEL is a model folder or a .gguf file. Needs the extras `export` and `interop`. Each program runs
in a process of its own, which waits while another one is measured: they take turns with a few steps
each, on the same tokens, from the same weights. A ratio is the median over the rounds. On a busy
machine the processor time is the better measure. Memory is the peak of the process from its start.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SHORT_SPIN = "1000"  # rounds
ROOT = Path(__file__).resolve().parents[1]
COMMON = """
import itertools, json, os, resource, sys, time
folder, threads, rank, precision = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
import numpy as np
import torch
torch.set_num_threads(threads)
blocks = torch.from_numpy(np.load(os.path.join(folder, "blocks.npy")))  # (N, B, T + 1)
turn = itertools.count()

def next_block():
    return blocks[next(turn) % len(blocks)]

def serve(step):
    step()  # the first step allocates
    print(json.dumps(0), flush=True)
    for line in sys.stdin:
        started_at, processor = time.perf_counter(), time.process_time()
        losses = [step() for _ in range(int(line))]
        seconds = (time.perf_counter() - started_at) / len(losses)
        processor_seconds = (time.process_time() - processor) / len(losses)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps([seconds, processor_seconds, peak, losses[-1]]), flush=True)
"""
OURS = """
from pathlib import Path
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.run_log import Sinks
from simplellm.data.packed_dataset import Batch
from simplellm.training.context import TrainingContext
from simplellm.training.distributed import World
from simplellm.training.preparation import prepare_run
from simplellm.training.sources import Sources
B, T = blocks.shape[1], blocks.shape[2] - 1
given = {"lora": rank, "precision": precision, "compile": "off", "max_steps": 10_000,
    "schedule": "constant", "warmup_steps": 0, "block_size": T, "batch_size": B,
    "learning_rate": 1e-3, "eval_interval": 10_000}
context = TrainingContext(Path(folder), torch.device("cpu"), World(), Sinks(), lambda text: None,
    lambda: False)
text = os.path.join(folder, "text.txt")
trainer, _ = prepare_run(Sources((text,)), given, RunFolder(Path(folder) / "run"), context,
    Path(folder) / "model")

def batch(micro_step):
    block = next_block()
    return Batch(block[:, :-1], block[:, 1:])

trainer._batch = batch

def step():
    trainer.train_step()
    return trainer.loss

serve(step)
"""
PEFT = """
import peft, transformers
dtype = {"float32": torch.float32, "bf16": torch.bfloat16}[precision]
path = os.path.join(folder, "model")
model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear",
    task_type="CAUSAL_LM")
model = peft.get_peft_model(model, config).train()
weights = [weight for weight in model.parameters() if weight.requires_grad]
optimizer = torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.0, fused=True)

def step():
    block = next_block()
    loss = model(input_ids=block, labels=block).loss  # T predictions in each row
    loss.backward()
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()

serve(step)
"""


class Program:
    """A program that has opened the model and trains when it is asked to."""

    def __init__(self, name: str, code: str, *arguments: str) -> None:
        self.name = name
        self.seconds: list[float] = []
        self.processor_seconds: list[float] = []
        self.peak_bytes = 0
        self.loss = 0.0
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": arguments[1]}
        env.setdefault("GOMP_SPINCOUNT", SHORT_SPIN)  # waiting threads take no time of the other
        self._process = subprocess.Popen(
            [sys.executable, "-c", COMMON + code, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env,
        )  # fmt: skip
        self._answer()

    def train(self, n_steps: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{n_steps}\n")
        self._process.stdin.flush()
        seconds, processor_seconds, self.peak_bytes, self.loss = self._answer()
        self.seconds.append(seconds)
        self.processor_seconds.append(processor_seconds)

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line[:1] in "[0":  # a library may print other lines
                return json.loads(line)
        raise SystemExit(f"{self.name} ended")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def prepare(model: Path, folder: Path, text: Path, shape: tuple[int, int]) -> None:
    """Write the model as a folder, the text, and its tokens in blocks (N, B, T + 1)."""
    import numpy as np

    from simplellm.app.cli import main
    from simplellm.checkpoint.step_folder import open_source

    arguments = ["--run", str(model), "--format", "hf", "--out", str(folder / "model")]
    if main(["export", *arguments]):
        raise SystemExit("the export failed")
    content = text.read_text(encoding="utf-8")
    (folder / "text.txt").write_text(content, encoding="utf-8")
    ids = np.array(open_source(model).tokenizer.encode(content), dtype=np.int64)
    size = shape[0] * (shape[1] + 1)
    blocks = ids[: len(ids) // size * size].reshape(-1, shape[0], shape[1] + 1)
    np.save(folder / "blocks.npy", blocks)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, help="a model folder or a .gguf file")
    parser.add_argument("--text", type=Path, default=ROOT / "the-verdict.txt")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="steps of each program in a round")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--shape", type=int, nargs=2, default=(2, 256), help="blocks and tokens")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--precision", nargs="+", default=["float32", "bf16"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(options.model, folder, options.text, tuple(options.shape))
        arguments = (str(folder), str(options.threads), str(options.rank))
        for precision in options.precision:
            ours, theirs = (
                Program(title, code, *arguments, precision)
                for title, code in (("simplellm", OURS), ("peft", PEFT))
            )
            for _ in range(options.rounds):
                for program in (ours, theirs):
                    program.train(options.steps)
            report(precision, ours, theirs)


def report(precision: str, ours: Program, theirs: Program) -> None:
    for program in (ours, theirs):
        print(
            f"{precision:8} {program.name:10} {statistics.median(program.seconds):6.2f} s per step "
            f"({statistics.median(program.processor_seconds):.2f} s of the processor), "
            f"{program.peak_bytes / 1e6:6.0f} MB, loss {program.loss:.2f}"
        )
        program.close()
    wall, processor = (
        statistics.median(slow / fast for fast, slow in zip(*sides, strict=True))
        for sides in (
            (ours.seconds, theirs.seconds),
            (ours.processor_seconds, theirs.processor_seconds),
        )
    )
    print(
        f"{precision:8} simplellm is {wall:.2f} times as fast as peft "
        f"({processor:.2f} times by processor time)",
        flush=True,
    )


if __name__ == "__main__":
    main()
