"""Check training, resuming and evaluation on the GPU of this machine.

    python examples/gpu_check.py [--device auto|cuda|mps|cpu] [--steps N]

For each number format: train; train the same again, stop half way and resume (the weights must be
equal bit for bit); evaluate on the device and on the CPU (equal to 1e-3). Prints a table. The exit
code is 0 if all checks passed, else 1.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from simplellm.app.cli import main  # noqa: E402
from simplellm.device import choose_device, choose_precision, describe  # noqa: E402

TEXT = ROOT / "the-verdict.txt"
FORMATS = {
    "cuda": ("float32", "bf16", "fp16"),
    "mps": ("float32", "bf16", "fp16"),
    "cpu": ("float32", "bf16"),
}
TRAINING = [
    "--n-layer", "4", "--n-embd", "128", "--block-size", "64", "--vocab-size", "512",
    "--batch-size", "16", "--schedule", "constant", "--warmup-steps", "2",
    "--eval-tokens", "1024", "--eval-interval", "1000",
]  # fmt: skip
MAX_LOSS_DIFFERENCE = 1e-3  # between the device and the CPU, relative
COLUMNS = ("format", "tokens/s", "peak memory", "bits/byte", "resume", "loss vs CPU", "wrong")


def command(*arguments: str) -> dict[str, Any]:
    """The JSON that a command prints. RuntimeError with its error message if it fails."""
    out, notices = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(notices):
        code = main([*arguments, "--json"])
    if code:
        raise RuntimeError(notices.getvalue()[-1000:])
    result: dict[str, Any] = json.loads(out.getvalue())
    return result


def checkpoint_bytes(folder: Path, run: str, step: int) -> list[bytes]:
    """The weights and the optimizer state of a checkpoint."""
    checkpoint = folder / run / f"step-{step:06}"
    names = ("model.safetensors", "training/state.safetensors")
    return [(checkpoint / name).read_bytes() for name in names]


def peak_memory_bytes(run: Path) -> int:
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return max(record.get("memory_bytes", 0) for record in map(json.loads, lines))


def is_resume_exact(training: list[str], whole: str, steps: int, folder: Path) -> bool:
    """Train again with a stop half way: whether the checkpoint equals that of the run `whole`."""
    half, where = f"{whole}-half", ["--checkpoints", str(folder)]
    command(*training, "--name", half, "--max-steps", str(steps // 2))
    device = training[training.index("--device") : training.index("--device") + 2]
    command("train", "--resume", "--name", half, "--max-steps", str(steps), *where, *device)
    return checkpoint_bytes(folder, half, steps) == checkpoint_bytes(folder, whole, steps)


def loss_difference(run: str, device: str, folder: Path) -> float:
    """Relative difference of the loss that the device and the CPU compute."""
    evaluate = ("evaluate", "--data", str(TEXT), "--run", run, "--checkpoints", str(folder))
    on_device, on_cpu = (command(*evaluate, "--device", one)["loss"] for one in (device, "cpu"))
    return abs(on_device / on_cpu - 1)


def check(device: str, precision: str, steps: int, folder: Path) -> dict[str, str]:
    """One row of the table, by column; `wrong` names the checks that failed."""
    training = ["train", str(TEXT), "--checkpoints", str(folder), "--device", device]
    training += [*TRAINING, "--precision", precision]
    result = command(*training, "--name", precision, "--max-steps", str(steps))
    is_exact = is_resume_exact(training, precision, steps, folder)
    difference = loss_difference(precision, device, folder)
    wrong = [] if is_exact else ["resuming is not exact"]
    wrong += [] if difference < MAX_LOSS_DIFFERENCE else ["evaluation differs from the CPU"]
    return {
        "format": precision,
        "tokens/s": f"{result['tokens_per_second']:,.0f}",
        "peak memory": f"{peak_memory_bytes(folder / precision) / 2**20:,.0f} MiB",
        "bits/byte": f"{result['bits_per_byte']:.3f}",
        "resume": "exact" if is_exact else "differs",
        "loss vs CPU": f"{difference:.1e}",
        "wrong": ", ".join(wrong),
    }


def print_table(rows: list[dict[str, str]]) -> None:
    cells = [COLUMNS, *(tuple(row.get(column, "-") for column in COLUMNS) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        print("  ".join(map(str.ljust, row, widths)).rstrip())


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--device", choices=("auto", "cuda", "mps", "cpu"), default="auto")
    parser.add_argument("--steps", type=int, default=40, help="of each training (default: 40)")
    options = parser.parse_args(arguments)
    device = choose_device(options.device)
    print(f"torch {torch.__version__} on {describe(device, choose_precision(device))}")
    rows: list[dict[str, str]] = []
    for precision in FORMATS[device.type]:
        with tempfile.TemporaryDirectory() as folder:
            try:
                rows.append(check(device.type, precision, options.steps, Path(folder)))
            except RuntimeError as error:
                rows.append({"format": precision, "wrong": " ".join(str(error).split())[-300:]})
    print_table(rows)
    return int(any(row["wrong"] for row in rows))


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
