"""What a finished run is worth: its figures beside simple baselines, and how much of what it writes is copied."""

from __future__ import annotations

import bz2
import lzma
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simplellm.data.prepared import Prepared
from simplellm.evaluation.chart import loss_svg
from simplellm.evaluation.curves import LossCurves
from simplellm.evaluation.passages import PASSAGE_CHARACTERS, find_passages
from simplellm.evaluation.training_text import byte_chunks, sampled_text, text_chunks
from simplellm.storage.files import replace_file
from simplellm.storage.json_files import json_bytes

N_BYTES = 256
UNIFORM_BITS = 8.0
# Train and held-out text together lie in one block of bz2 (900 kB), so that their difference is what the held-out
# text costs; xz takes 1 s per MB and pass (measured), and has two.
COMPRESSED_TRAIN_BYTES, COMPRESSED_HELD_OUT_BYTES = 750_000, 100_000
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {"xz": lzma.compress, "bz2": bz2.compress}


@dataclass(frozen=True)
class Baselines:
    """Bits per byte of the held-out text for who knows nothing, byte frequencies, or the training text as a compressor does."""

    uniform: float
    unigram: float
    compressed: float
    compressor: str


@dataclass(frozen=True)
class CopyRate:
    """How much of a sample stands word for word in a text; see `passages`."""

    share: float  # of its visible characters
    passage_characters: int  # from how many on it is a passage
    sample_characters: int
    longest: str  # passage; empty where there is none


@dataclass(frozen=True)
class Report:
    """The end of a run: final figures (those of its result), baselines, and how original a sample is."""

    figures: Mapping[str, Any]
    baselines: Baselines
    copied: CopyRate
    sample: str
    loss_svg: str  # where it lies

    def to_mapping(self) -> dict[str, Any]:
        return asdict(self)


def make_report(
    folder: Path,
    prepared: Prepared,
    records: Iterable[Mapping[str, Any]],
    figures: Mapping[str, Any],
    sample: str,
) -> Report:
    """Measure, and keep report.json and loss.svg in the run folder. `records` are those of its log.

    About 2 s at most for texts of some MB, mostly the compressors'; larger ones cost 0.1 s per MB, read in pieces.
    """
    held_out = b"".join(byte_chunks(prepared.val_ids, prepared.tokenizer))
    svg = folder / "loss.svg"
    replace_file(svg, loss_svg(LossCurves.of(records), folder.name).encode())
    copied = copy_rate(sample, text_chunks(prepared.train_ids, prepared.tokenizer))
    report = Report(
        dict(figures),
        baselines(byte_chunks(prepared.train_ids, prepared.tokenizer), held_out),
        copied,
        sample,
        str(svg),
    )
    replace_file(folder / "report.json", json_bytes(report.to_mapping()))
    return report


# ---------------------------------------------------------------- baselines


def baselines(train: Iterable[bytes], held_out: bytes) -> Baselines:
    """`train` in pieces. The unigram sees all of it, the compressors its end and the beginning of what follows."""
    counts, tail = np.zeros(N_BYTES, dtype=np.int64), b""
    for piece in train:
        counts += np.bincount(np.frombuffer(piece, np.uint8), minlength=N_BYTES)
        tail = (tail + piece)[-COMPRESSED_TRAIN_BYTES:]
    compressed = compressed_bits(tail, held_out[:COMPRESSED_HELD_OUT_BYTES])
    best = min(compressed, key=compressed.__getitem__)
    return Baselines(UNIFORM_BITS, unigram_bits(counts, held_out), compressed[best], best)


def unigram_bits(train_counts: np.ndarray, held_out: bytes) -> float:
    """Bits per byte of `held_out` for byte frequencies (256,) with one added to each, so that none is impossible."""
    probabilities = (train_counts + 1) / (train_counts.sum() + N_BYTES)
    counts = np.bincount(np.frombuffer(held_out, np.uint8), minlength=N_BYTES)
    return float(-(counts * np.log2(probabilities)).sum() / max(len(held_out), 1))


def compressed_bits(train: bytes, held_out: bytes) -> dict[str, float]:
    """By compressor: the bits per byte that `held_out` adds to the compressed size of `train`."""
    with ThreadPoolExecutor() as pool:  # they let other threads run meanwhile
        jobs = {
            name: (pool.submit(compress, train + held_out), pool.submit(compress, train))
            for name, compress in COMPRESSORS.items()
        }
        sizes = {name: [len(job.result()) for job in pair] for name, pair in jobs.items()}
    return {
        name: 8 * max(both - alone, 0) / max(len(held_out), 1)
        for name, (both, alone) in sizes.items()
    }


# ---------------------------------------------------------------- in words


def copy_rate(sample: str, texts: Iterable[str]) -> CopyRate:
    """What of `sample` stands in the text that `texts` are pieces of (see `passages.text_pieces`)."""
    found = find_passages(sample, [sampled_text(sample, texts, PASSAGE_CHARACTERS)])
    longest = found.passages[0].text if found.passages else ""
    return CopyRate(found.share, PASSAGE_CHARACTERS, len(sample), longest)


def report_lines(report: Report) -> Sequence[str]:
    """The report in words, a line each."""
    marks, copied = report.baselines, report.copied
    rows = [
        ("this model", report.figures["bits_per_byte"]),
        (marks.compressor, marks.compressed),
        ("byte unigram", marks.unigram),
        ("uniform bytes", marks.uniform),
    ]
    longest = (
        f", the longest of {len(copied.longest)}: {' '.join(copied.longest.split())!r}"
        if copied.longest
        else ""
    )
    return [
        f"held-out loss {report.figures['val_loss']:.3f}, perplexity {report.figures['perplexity']:.4g}; bits per byte:",
        *(f"{name:<14} {bits:.3f}" for name, bits in rows),
        f"copied word for word: {copied.share:.0%} of a sample of {copied.sample_characters} characters "
        f"(in passages of {copied.passage_characters} or more{longest})",
        f"loss curve: {report.loss_svg}",
    ]
