"""Makes the base model of the package from a finished run: python base/install.py RUN

Rounds the weights to 8 bits, writes simplellm/base/model/ with its model card and manifest, and
reports the size, the time to load it, and the bits per byte that the rounding costs on each TEXT
(--data, by default the-verdict.txt).
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import simplellm
from simplellm.base.packaged import FOLDER
from simplellm.checkpoint.int8_folder import write_int8_folder
from simplellm.storage.files import new_folder

ROOT = Path(__file__).resolve().parents[1]
CARD = Path(__file__).with_name("MODEL_CARD.md")
MAX_BYTES = 8_000_000  # of the folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="run, checkpoint or model folder")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--data", nargs="+", type=Path, default=[ROOT / "the-verdict.txt"])
    parser.add_argument("--card", type=Path, default=CARD, help="model card, in Markdown")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write, or to replace")
    options = parser.parse_args()
    original = simplellm.load(options.run, checkpoints=options.checkpoints, device="cpu")
    shutil.rmtree(options.out, ignore_errors=True)
    with new_folder(options.out) as folder:
        card = options.card.read_text(encoding="utf-8") if options.card.is_file() else ""
        write_int8_folder(folder, original.network, original.tokenizer, card)
    started_at = time.perf_counter()
    rounded = simplellm.load(options.out, device="cpu")
    seconds = time.perf_counter() - started_at
    n_bytes = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"{options.out}: {rounded.network.n_parameters:,} parameters, {n_bytes:,} bytes")
    print(f"loaded in {seconds:.3f} s")
    if n_bytes > MAX_BYTES:
        print(f"too large: at most {MAX_BYTES:,} bytes")
    for path in options.data:
        text = path.read_text(encoding="utf-8")
        before, after = (model.evaluate(text).bits_per_byte for model in (original, rounded))
        print(f"{path.name}: {before:.4f} bits/byte, in 8 bits {after:.4f} ({after - before:+.4f})")


if __name__ == "__main__":
    main()
