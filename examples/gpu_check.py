"""Check SimpleLLM on this machine's GPU: `python examples/gpu_check.py [--device cuda|mps|cpu] [--steps N]`.

For each number format: a short training, the same training stopped half way and resumed (the weights must be equal bit
for bit), and the evaluation on the device against that on the CPU (equal to 1e-3). Prints a table; exit code 0 when
all is well, 1 otherwise.
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
    "--n-layer", "4", "--n-embd", "128", "--block-size", "64", "--vocab-size", "512", "--batch-size", "16",
    "--schedule", "constant", "--warmup-steps", "2", "--eval-tokens", "1024", "--eval-interval", "1000",
]  # fmt: skip
LARGEST_DIFFERENCE = 1e-3  # of a loss computed on the device and on the CPU, relative


def command(*arguments: str) -> dict[str, Any]:
    """The JSON a command of SimpleLLM prints. RuntimeError with its error message where it fails."""
    out, notices = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(notices):
        code = main([*arguments, "--json"])
    if code:
        raise RuntimeError(notices.getvalue()[-1000:])
    result: dict[str, Any] = json.loads(out.getvalue())
    return result


def files(folder: Path, run: str, step: int) -> list[bytes]:
    """The weights and the optimizer state of a checkpoint."""
    place = folder / run / f"step-{step:06}"
    return [
        (place / name).read_bytes() for name in ("model.safetensors", "training/state.safetensors")
    ]


def check(device: str, precision: str, steps: int, folder: Path) -> dict[str, str]:
    """One row of the table, by column; `wrong` says what is not as it should be."""
    place = ["--checkpoints", str(folder), "--device", device]
    training = ["train", str(TEXT), *place, *TRAINING, "--precision", precision]
    whole = command(*training, "--name", f"{precision}-whole", "--max-steps", str(steps))
    half = f"{precision}-half"
    command(*training, "--name", half, "--max-steps", str(steps // 2))
    command("train", "--resume", "--name", half, "--max-steps", str(steps), *place)
    is_exact = files(folder, half, steps) == files(folder, f"{precision}-whole", steps)
    scores = [
        command(
            "evaluate",
            "--data",
            str(TEXT),
            "--run",
            f"{precision}-whole",
            "--checkpoints",
            str(folder),
            "--device",
            one,
        )
        for one in (device, "cpu")
    ]
    difference = abs(scores[0]["loss"] / scores[1]["loss"] - 1)
    log = (folder / f"{precision}-whole" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    peak = max(record.get("memory_bytes", 0) for record in map(json.loads, log))
    wrong = [
        *([] if is_exact else ["resuming is not exact"]),
        *([] if difference < LARGEST_DIFFERENCE else ["evaluation differs from the CPU's"]),
    ]
    return {
        "format": precision,
        "tokens/s": f"{whole['tokens_per_second']:,.0f}",
        "peak memory": f"{peak / 2**20:,.0f} MiB",
        "bits/byte": f"{whole['bits_per_byte']:.3f}",
        "resume": "exact" if is_exact else "differs",
        "loss vs CPU": f"{difference:.1e}",
        "wrong": ", ".join(wrong),
    }


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--device", choices=("auto", "cuda", "mps", "cpu"), default="auto")
    parser.add_argument("--steps", type=int, default=40, help="of each training (default: 40)")
    options = parser.parse_args(arguments)
    device = choose_device(options.device)
    print(f"torch {torch.__version__} on {describe(device, choose_precision(device))}")  # noqa: T201
    rows: list[dict[str, str]] = []
    for precision in FORMATS[device.type]:
        with tempfile.TemporaryDirectory() as folder:
            try:
                rows.append(check(device.type, precision, options.steps, Path(folder)))
            except RuntimeError as error:
                rows.append({"format": precision, "wrong": " ".join(str(error).split())[-300:]})
    columns = ("format", "tokens/s", "peak memory", "bits/byte", "resume", "loss vs CPU", "wrong")
    widths = [max(len(column), *(len(row.get(column, "-")) for row in rows)) for column in columns]
    for cells in [columns, *(tuple(row.get(column, "-") for column in columns) for row in rows)]:
        print("  ".join(map(str.ljust, cells, widths)).rstrip())
    return int(any(row["wrong"] for row in rows))


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
