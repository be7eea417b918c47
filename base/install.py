"""Makes the base model of the package from a finished run: python base/install.py RUN

Rounds the weights to 8 bits and writes simplellm/base/model/ with its model card and manifest.
Reports the size, the time to load it, and the bits per byte that the rounding costs on each file of
--data. --report is the report.json of base/corpus.py: the card lists its texts and licences.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import simplellm
from simplellm.base.packaged import FOLDER
from simplellm.checkpoint.int8_folder import write_int8_folder
from simplellm.storage.files import new_folder

ROOT = Path(__file__).resolve().parents[1]
CARD = Path(__file__).with_name("MODEL_CARD.md")
MAX_BYTES = 8_000_000  # of the folder
Row = Sequence[object]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="run, checkpoint or model folder")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--data", nargs="+", type=Path, default=[ROOT / "the-verdict.txt"])
    parser.add_argument("--report", type=Path, help="report.json of base/corpus.py")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write, or to replace")
    options = parser.parse_args(arguments)
    original = simplellm.load(options.run, checkpoints=options.checkpoints, device="cpu")
    install(original, options.out, "")  # to be measured
    started_at = time.perf_counter()
    rounded = simplellm.load(options.out, device="cpu")
    seconds = time.perf_counter() - started_at
    figures = [*facts(original), *costs(original, rounded, options.data)]
    install(original, options.out, card(figures, options.report))
    n_bytes = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    for row in [
        *figures,
        ("bytes of the folder", f"{n_bytes:,}"),
        ("seconds to load", f"{seconds:.2f}"),
    ]:
        print(*row, sep=": ")
    if n_bytes > MAX_BYTES:
        raise SystemExit(f"{options.out} is too large: at most {MAX_BYTES:,} bytes")


def install(model: simplellm.Model, out: Path, text: str) -> None:
    """Write the folder of the base model, or replace it."""
    new = out.with_name(out.name + "-new")
    shutil.rmtree(new, ignore_errors=True)
    with new_folder(new) as folder:
        write_int8_folder(folder, model.network, model.tokenizer, text)
    shutil.rmtree(out, ignore_errors=True)
    new.rename(out)


def facts(model: simplellm.Model) -> list[Row]:
    config = model.config
    return [
        ("architecture", f"{config.architecture} {config.n_layer}x{config.n_embd}"),
        ("parameters", f"{model.network.n_parameters:,}"),
        ("vocabulary", f"{config.vocab_size:,}"),
        ("context", f"{config.block_size} tokens"),
    ]


def costs(original: simplellm.Model, rounded: simplellm.Model, data: Iterable[Path]) -> list[Row]:
    rows: list[Row] = []
    for path in data:
        text = path.read_text(encoding="utf-8")
        before, after = (model.evaluate(text).bits_per_byte for model in (original, rounded))
        rows.append((f"bits/byte of {path.name}", f"{after:.3f} (rounding: {after - before:+.4f})"))
    return rows


def card(figures: Iterable[Row], report: Path | None) -> str:
    sources: list[Row] = []
    if report:
        known = json.loads(report.read_text(encoding="utf-8"))["sources"]
        sources = [(name, row["licence"], f"{row['characters']:,}") for name, row in known.items()]
    table = [("text", "licence", "characters"), ("---", "---", "---:"), *sources]
    text = CARD.read_text(encoding="utf-8")
    return text.format(figures=lines(figures), sources=lines(table) if sources else "Not recorded.")


def lines(rows: Iterable[Row]) -> str:
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


if __name__ == "__main__":
    main()
