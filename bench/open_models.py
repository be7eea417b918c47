"""Compares the speed of an open model here, in `transformers` and in llama.cpp.

    python bench/open_models.py MODEL.gguf --rounds 5

Needs the extras `hub`, `export` and `interop`. Each program runs in a process of its own, which
waits while another one is measured. They take turns, and a ratio is the median over the rounds. Run
it on an otherwise quiet machine.

- decode: seconds per token of a greedy reply of 64 tokens to a prompt of 8;
- prompt: seconds until the first token after a prompt of 512 tokens;
- open: seconds to open the file with its tokenizer, once per process.

llama.cpp reads the Q8_0 file that `simplellm export` writes and is compared with int8 weights here;
`transformers` is compared with float32 weights.
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

ROOT = Path(__file__).resolve().parents[1]
COMMON = """
import itertools, json, os, sys, time
path, threads = sys.argv[1], int(sys.argv[2])
first = itertools.count(200)  # another first token each time, so that no cache has the prompt

def new_prompt(length):
    return [next(first), *(100 + 7 * i % 40000 for i in range(length - 1))]

def decode(reply):
    tokens = reply(8, 65)
    next(tokens)
    started_at = time.perf_counter()
    count = sum(1 for _ in tokens)
    return (time.perf_counter() - started_at) / count

def prompt(reply):
    started_at = time.perf_counter()
    next(reply(512, 1))
    return time.perf_counter() - started_at

def serve(opened, **tasks):
    print(json.dumps(opened), flush=True)
    for line in sys.stdin:
        print(json.dumps(tasks[line.strip()]()), flush=True)
"""
OURS = """
from pathlib import Path
from simplellm.config.environment import set_defaults
set_defaults(os.environ)
import torch
from simplellm.checkpoint.step_folder import open_model
from simplellm.config.sampling import SamplingParams
from simplellm.inference.quantize import quantize
from simplellm.inference.sampler import Sampler
torch.set_num_threads(threads)
started_at = time.perf_counter()
opened = open_model(Path(path), torch.device("cpu"))
seconds = time.perf_counter() - started_at
model = quantize(opened.model) if sys.argv[3:] == ["int8"] else opened.model
sampler = Sampler(model, opened.tokenizer)

def reply(length, new):
    params = SamplingParams(temperature=0, seed=1, max_new_tokens=new)
    tokens = sampler.stream(new_prompt(length), params)
    return (token for token in tokens if token.token is not None)

serve(seconds, decode=lambda: decode(reply), prompt=lambda: prompt(reply))
"""
TRANSFORMERS = """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
torch.set_num_threads(threads)
folder, name = os.path.split(path)
started_at = time.perf_counter()
AutoTokenizer.from_pretrained(folder, gguf_file=name)
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
seconds = time.perf_counter() - started_at

@torch.inference_mode()
def reply(length, new):
    ids, past = torch.tensor([new_prompt(length)]), None
    for _ in range(new):
        output = model(ids, past_key_values=past, use_cache=True, logits_to_keep=1)
        ids, past = output.logits[:, -1:].argmax(-1), output.past_key_values
        yield ids

serve(seconds, decode=lambda: decode(reply), prompt=lambda: prompt(reply))
"""
LLAMA_CPP = """
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path = path
params.n_ctx, params.n_parallel = 2048, 1
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
started_at = time.perf_counter()
server = xllamacpp.Server(params)
seconds = time.perf_counter() - started_at

def timings(length, new):
    request = {"prompt": new_prompt(length), "max_tokens": new, "temperature": 0,
        "cache_prompt": False, "ignore_eos": True}
    return server.handle_completions(request)["timings"]

serve(seconds, decode=lambda: timings(8, 65)["predicted_per_token_ms"] / 1000,
    prompt=lambda: timings(512, 1)["prompt_ms"] / 1000)
"""


class Program:
    """A program that has opened the model and answers requests for measurements."""

    def __init__(self, name: str, code: str, path: Path, threads: int, *more: str) -> None:
        self.name = name
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", COMMON + code, str(path), str(threads), *more],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=env,
        )  # fmt: skip
        self.open_seconds = float(self._answer())

    def measure(self, task: str) -> float:
        """Seconds per token of `decode`, seconds of `prompt`."""
        assert self._process.stdin is not None
        self._process.stdin.write(task + "\n")
        self._process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line[:1].isdigit():  # a library may print other lines
                return json.loads(line)
        raise SystemExit(f"{self.name} ended")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def export_q8_0(path: Path, folder: Path) -> Path:
    from simplellm.app.cli import main

    out = folder / "model-q8_0.gguf"
    arguments = ["--run", str(path), "--format", "gguf", "--type", "q8_0", "--out", str(out)]
    if main(["export", *arguments]):
        raise SystemExit("the export failed")
    return out


def compare(task: str, ours: Program, other: Program, rounds: int) -> None:
    pairs = [(ours.measure(task), other.measure(task)) for _ in range(rounds + 1)][1:]
    ratio = statistics.median(theirs / mine for mine, theirs in pairs)
    mine, theirs = (statistics.median(side) * 1000 for side in zip(*pairs, strict=True))
    print(f"{task:8} {ours.name} {mine:9.2f} ms  {other.name} {theirs:9.2f} ms  {ratio:5.2f} times")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, help="a GGUF file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        q8_0 = export_q8_0(options.model, Path(folder))
        for name, code, weights, path in (
            ("transformers", TRANSFORMERS, "float32", options.model),
            ("llama.cpp Q8_0", LLAMA_CPP, "int8", q8_0),
        ):
            ours = Program(f"simplellm {weights}", OURS, options.model, options.threads, weights)
            other = Program(name, code, path, options.threads)
            print(f"open     {ours.open_seconds:.2f} s, {other.name} {other.open_seconds:.2f} s")
            for task in ("decode", "prompt"):
                compare(task, ours, other, options.rounds)
            ours.close()
            other.close()


if __name__ == "__main__":
    main()
