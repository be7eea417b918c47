"""Measures what other programs on the machine cost: kept budgets and training speed.

    python bench/busy_machine.py budget TEXT --budget 65 --rounds 2
    python bench/busy_machine.py threads --rounds 3

`budget` trains TEXT once with each disturbance, in turns. It prints the share of the budget that
the whole command used, its steps and its bits per byte. `threads` trains with several settings of
how OpenMP threads wait, in turns. It prints tokens per second on a quiet machine and beside one and
two busy processes. Run it on an otherwise quiet machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUSPENDED_SECONDS = 20.0
SETTINGS: dict[str, dict[str, str]] = {
    "as this program sets it": {},
    "libgomp's default": {"GOMP_SPINCOUNT": "300000"},
    "GOMP_SPINCOUNT=0": {"GOMP_SPINCOUNT": "0"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}
STEPS = """
import os, sys, time
from simplellm.config.environment import set_defaults
from simplellm.training.threads import adapted_to_load
set_defaults(os.environ)
import torch
from simplellm import device as devices
from simplellm.config.model import ModelConfig
from simplellm.config.training import TrainConfig
from simplellm.model.transformer import SimpleLLM
from simplellm.training.optimizer import Optimizer
cpu, precision = torch.device("cpu"), sys.argv[1]
devices.reuse_freed_memory()
config = ModelConfig(
    n_layer=4, n_head=2, n_embd=128, block_size=512, vocab_size=1024, tie_embeddings=False
)
model = SimpleLLM(config).init_weights(torch.Generator().manual_seed(1)).train()
optimizer, scaler = Optimizer(model, TrainConfig()), devices.grad_scaler(cpu, precision)
block = torch.randint(1024, (4, 513), generator=torch.Generator().manual_seed(0))
def step():
    with devices.fast_float32(cpu):
        with devices.autocast(cpu, precision):
            loss = model.loss(block[:, :-1], block[:, 1:])
        loss.backward()
    torch.nn.utils.clip_grad_norm_(optimizer.weights, 1.0, foreach=True)
    optimizer.step(scaler)
    optimizer.zero_grad()
for _ in range(5):
    step()
print("ready", flush=True)
with adapted_to_load():
    for line in sys.stdin:
        steps, started_at = 0, time.perf_counter()
        while (seconds := time.perf_counter() - started_at) < float(line):
            step()
            steps += 1
        print(steps * 2048 / seconds, flush=True)
"""


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Within the block `count` other processes compute without a pause."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


# ---------------------------------------------------------------- budgets

Disturbance = Callable[[subprocess.Popen[str], float], None]  # of a training and its budget


def wait(process: subprocess.Popen[str], seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def busy_from(begin: float, end: float, count: int = 2) -> Disturbance:
    """Busy processes from `begin` to `end`.

    Both are seconds since the start; negative ones count back from the end of the budget.
    """

    def disturb(process: subprocess.Popen[str], budget: float) -> None:
        first, last = (at if at >= 0 else budget + at for at in (begin, end))
        wait(process, first)
        with busy(count):
            wait(process, last - first)

    return disturb


def on_and_off(process: subprocess.Popen[str], budget: float) -> None:
    while process.poll() is None:
        with busy(2):
            wait(process, 5.0)
        wait(process, 5.0)


def suspended(begin: float) -> Disturbance:
    def disturb(process: subprocess.Popen[str], budget: float) -> None:
        wait(process, begin)
        process.send_signal(signal.SIGSTOP)
        time.sleep(SUSPENDED_SECONDS)
        process.send_signal(signal.SIGCONT)

    return disturb


DISTURBANCES: dict[str, Disturbance] = {
    "quiet": lambda process, budget: None,
    "2 busy, first 15 s": busy_from(0, 15),
    "2 busy, last 15 s": busy_from(-15, 3600),
    "2 busy, on and off every 5 s": on_and_off,
    "suspended for 20 s, at 15 s": suspended(15),
    "1 busy, all the time": busy_from(0, 3600, 1),
}


def train(text: str, budget: float, disturb: Disturbance) -> dict[str, float]:
    """Figures of a training: seconds of the whole command, reported seconds, steps and others."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--budget", f"{budget:g}s", "--json", "--checkpoints", folder, "--name", "run"]
        command = [sys.executable, str(ROOT / "main.py"), "train", text, *flags]
        started_at = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        disturb(process, budget)
        out, _ = process.communicate()
        seconds = time.perf_counter() - started_at
        result = json.loads(out)
        info = json.loads((Path(folder) / "run" / "run.json").read_text(encoding="utf-8"))
    width = info["model"]["n_embd"]
    figures = {name: float(result[name]) for name in ("train_seconds", "steps", "bits_per_byte")}
    return {
        "seconds": seconds,
        **figures,
        "width": width,
        "decisions": len(info.get("decisions", [])),
    }


def budgets(text: str, budget: float, rounds: int, only: str) -> None:
    chosen = {
        name: disturb for name, disturb in DISTURBANCES.items() if only in name or name == "quiet"
    }
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in chosen}
    for _ in range(rounds):
        for name, disturb in chosen.items():
            one = train(text, budget, disturb)
            figures[name].append(one)
            print(
                f"{name:<30} {one['seconds']:5.1f} s ({one['seconds'] / budget:4.0%}), "
                f"train_seconds {one['train_seconds']:5.1f} "
                f"({one['train_seconds'] / budget:4.0%}), width {one['width']:.0f}, "
                f"{one['steps']:4.0f} steps, {one['decisions']:2.0f} decisions, "
                f"{one['bits_per_byte']:.3f} bits/byte",
                flush=True,
            )
    quiet = statistics.mean(one["bits_per_byte"] for one in figures["quiet"])
    print(
        "\n| disturbance | budget used | steps | bits/byte | against quiet |\n|---|---|---|---|---|"
    )
    for name, ones in figures.items():
        used = ", ".join(f"{one['seconds'] / budget:.0%}" for one in ones)
        steps = ", ".join(f"{one['steps']:.0f}" for one in ones)
        bits = ", ".join(f"{one['bits_per_byte']:.3f}" for one in ones)
        more = statistics.mean(one["bits_per_byte"] for one in ones) - quiet
        print(f"| {name} | {used} | {steps} | {bits} | {more:+.3f} |")


# ---------------------------------------------------------------- threads


def tokens_per_second(environment: dict[str, str], precision: str, seconds: float) -> list[float]:
    """On a quiet machine, beside one and two busy processes, and on a quiet one again."""
    process = subprocess.Popen(
        [sys.executable, "-c", STEPS, precision],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdout.readline()
    speeds = []
    for count in (0, 1, 2, 0):
        with busy(count):
            time.sleep(0.5)
            process.stdin.write(f"{seconds}\n")
            process.stdin.flush()
            speeds.append(float(process.stdout.readline()))
    process.kill()
    process.communicate()
    return speeds


def threads(precision: str, rounds: int, seconds: float) -> None:
    speeds: dict[str, list[list[float]]] = {name: [] for name in SETTINGS}
    for _ in range(rounds):
        for name, environment in SETTINGS.items():
            speeds[name].append(tokens_per_second(environment, precision, seconds))
            print(
                f"{name:<24} " + " ".join(f"{speed:8.0f}" for speed in speeds[name][-1]), flush=True
            )
    print("\n| setting | quiet, tokens/s | 1 busy process | 2 busy processes |\n|---|---|---|---|")
    for name, rows in speeds.items():
        quiet = statistics.median([row[0] for row in rows] + [row[3] for row in rows])
        shares = [statistics.median(row[count] for row in rows) / quiet for count in (1, 2)]
        print(f"| {name} | {quiet:,.0f} | {shares[0]:.0%} | {shares[1]:.0%} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("budget", "threads"))
    parser.add_argument("text", nargs="?", help="the text to train on")
    parser.add_argument("--budget", type=float, default=65.0, help="seconds")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--only", default="", help="disturbances whose name contains this, besides quiet"
    )
    parser.add_argument("--precision", default="bf16", choices=("bf16", "float32"))
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement of threads")
    arguments = parser.parse_args()
    if arguments.what == "threads":
        threads(arguments.precision, arguments.rounds, arguments.seconds)
    elif arguments.text is None:
        parser.error("budget needs a TEXT")
    else:
        budgets(arguments.text, arguments.budget, arguments.rounds, arguments.only)


if __name__ == "__main__":
    main()
