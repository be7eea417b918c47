"""Report of a finished run: final metrics, simple baselines, and the share of copied text."""

from __future__ import annotations

import bz2
import lzma
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from simplellm.checkpoint.run import RunFolder
from simplellm.config.recipe import usual_epochs
from simplellm.data.copies import not_held_out
from simplellm.data.prepared_corpus import Prepared
from simplellm.evaluation import advice
from simplellm.evaluation.advice import LOWER_IS_BETTER, Course
from simplellm.evaluation.chart import loss_svg
from simplellm.evaluation.copied_text.passages import PASSAGE_CHARACTERS, find_passages
from simplellm.evaluation.copied_text.training_text import byte_chunks, sampled_text, text_chunks
from simplellm.evaluation.curves import LossCurves
from simplellm.storage.files import replace_file
from simplellm.storage.json_files import JsonMapping, JsonObject, json_bytes
from simplellm.training.run_info import RunInfo

N_BYTES = 256
UNIFORM_BITS = 8.0
# Both parts together fit into one block of bz2 (900 kB), so that the difference of two compressed
# sizes is the cost of the validation text. xz takes 1 s per MB (measured), for each of two passes.
COMPRESSED_TRAIN_BYTES = 750_000
COMPRESSED_VAL_BYTES = 100_000
SHOWN_CHARACTERS = 40  # of the longest copied passage
PASSES_DONE = 0.95  # of the most passes; a step reads a whole number of windows
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {"xz": lzma.compress, "bz2": bz2.compress}


@dataclass(frozen=True)
class Baselines:
    """Bits per byte of the validation text for simple models."""

    uniform: float  # all bytes are equally likely
    unigram: float  # byte frequencies of the training text
    compressed: float  # a compressor that has seen the training text
    compressor: str  # the better one of COMPRESSORS


@dataclass(frozen=True)
class CopyRate:
    """How much of a sample occurs word for word in a text; see passages.py."""

    share: float  # fraction of its visible characters
    passage_characters: int  # visible characters of the shortest passage that counts
    sample_characters: int
    longest: str  # the longest passage; empty if there is none


@dataclass(frozen=True)
class Report:
    """The content of report.json.

    too_short: why the validation text is too short for a figure; empty if it is long enough.
    not_held_out: why its figures are not held out; empty if they are.
    advice: what the figures mean and what to try next, one line each. base: bits per byte of the
    model that training started from, before the first step; None for random weights.
    base_tokens: of the validation text on which they were measured; 0 is all that were scored.
    """

    figures: JsonMapping  # final metrics, as in the result of the run
    baselines: Baselines
    copied: CopyRate
    sample: str
    loss_svg: str  # path of the chart
    too_short: str = ""
    advice: Sequence[str] = ()
    not_held_out: str = ""
    base: float | None = None
    base_tokens: int = 0

    def to_mapping(self) -> JsonObject:
        return asdict(self)


def make_report(
    folder: Path,
    prepared: Prepared,
    records: Iterable[JsonMapping],
    figures: JsonMapping,
    sample: str,
) -> Report:
    """Write report.json and loss.svg to the run folder. `records` are those of the run log.

    Takes up to 2 s for a text of a few MB, mostly for the compressors, and 0.1 s for each further
    MB, which is read in chunks.
    """
    validation = b"".join(byte_chunks(prepared.val_ids, prepared.tokenizer))
    records = list(records)
    course = course_of(folder, prepared, records, figures)
    svg = folder / "loss.svg"
    replace_file(svg, loss_svg(course.curves, folder.name).encode())
    report = Report(
        dict(figures),
        baselines(byte_chunks(prepared.train_ids, prepared.tokenizer), validation),
        copy_rate(sample, text_chunks(prepared.train_ids, prepared.tokenizer)),
        sample,
        str(svg),
        advice.short_validation(*prepared.scored),
        tuple(advice.advice(course)),
        not_held_out(RunFolder(folder).copied_share()),
        *_base_figures(records),
    )
    replace_file(folder / "report.json", json_bytes(report.to_mapping()))
    return report


def _base_figures(records: Sequence[JsonMapping]) -> tuple[float | None, int]:
    """Bits per byte before the first step, and of how many tokens where that is a part."""
    for record in records:
        if record["kind"] == "base":
            return float(record["bits_per_byte"]), 0
        if record["kind"] == "evaluation" and record["step"] == 0:
            return float(record["bits_per_byte"]), int(record["tokens"])
    return None, 0


def course_of(
    folder: Path, prepared: Prepared, records: Sequence[JsonMapping], figures: JsonMapping
) -> Course:
    """How the training of the run in `folder` went."""
    sizes = [record["tokens_per_step"] for record in records if "tokens_per_step" in record]
    n_bytes, n_tokens = prepared.train_bytes, len(prepared.train_ids)
    info = RunInfo.read(RunFolder(folder))
    is_warm, is_chat = bool(info.facts.get("from")), prepared.marks is not None
    usual = advice.usual_steps(n_bytes, n_tokens, sizes[-1] if sizes else 1, is_warm, is_chat)
    limit = info.training.max_epochs
    passes = int(figures["steps"]) * sizes[-1] / max(n_tokens, 1) if sizes else 0.0
    return Course(
        steps=int(figures["steps"]),
        usual_steps=usual,
        curves=LossCurves.of(records),
        regularization=advice.regularization_of(info.model, info.training),
        ended_early=any(record["kind"] == "early_stop" for record in records),
        passes=limit if limit is not None and passes > PASSES_DONE * limit else None,
        usual_passes=usual_epochs(n_bytes, is_warm, is_chat),
    )


# ---------------------------------------------------------------- baselines


def baselines(train: Iterable[bytes], validation: bytes) -> Baselines:
    """`train` comes in chunks. The compressors see its end and the beginning of `validation`."""
    counts, tail = np.zeros(N_BYTES, dtype=np.int64), b""
    for chunk in train:
        counts += np.bincount(np.frombuffer(chunk, np.uint8), minlength=N_BYTES)
        tail = (tail + chunk)[-COMPRESSED_TRAIN_BYTES:]
    compressed = compressed_bits(tail, validation[:COMPRESSED_VAL_BYTES])
    best = min(compressed, key=compressed.__getitem__)
    return Baselines(UNIFORM_BITS, unigram_bits(counts, validation), compressed[best], best)


def unigram_bits(train_counts: np.ndarray, validation: bytes) -> float:
    """Bits per byte of `validation` for byte counts (256,) with add-one smoothing."""
    probabilities = (train_counts + 1) / (train_counts.sum() + N_BYTES)
    counts = np.bincount(np.frombuffer(validation, np.uint8), minlength=N_BYTES)
    return float(-(counts * np.log2(probabilities)).sum() / max(len(validation), 1))


def compressed_bits(train: bytes, validation: bytes) -> dict[str, float]:
    """Compressor name -> bits per byte that `validation` adds to the compressed size of `train`."""
    with ThreadPoolExecutor() as pool:  # both release the interpreter lock
        jobs = {
            name: (pool.submit(compress, train + validation), pool.submit(compress, train))
            for name, compress in COMPRESSORS.items()
        }
        sizes = {name: [len(job.result()) for job in pair] for name, pair in jobs.items()}
    return {
        name: 8 * max(both - alone, 0) / max(len(validation), 1)
        for name, (both, alone) in sizes.items()
    }


# ---------------------------------------------------------------- copied text


def copy_rate(sample: str, chunks: Iterable[str]) -> CopyRate:
    """How much of `sample` occurs in the text with these chunks (see training_text.text_chunks)."""
    found = find_passages(sample, [sampled_text(sample, chunks, PASSAGE_CHARACTERS)])
    longest = found.passages[0].text if found.passages else ""
    return CopyRate(found.share, PASSAGE_CHARACTERS, len(sample), longest)


def explanation(report: Report) -> str:
    """Whether the model beats the compressors, for a reader who has never seen bits per byte."""
    compressor = f"{report.baselines.compressor}, a compressor"
    if report.figures["bits_per_byte"] < report.baselines.compressed:
        return f"{LOWER_IS_BETTER}: the model predicts this text better than {compressor}"
    return f"{LOWER_IS_BETTER}: {compressor}, still predicts this text better than the model"


def report_lines(report: Report) -> Sequence[str]:
    """The report as lines of text."""
    without_figures = report.too_short or report.not_held_out
    figures = [without_figures] if without_figures else [*_figures(report), *report.advice]
    return [*figures, _copied(report.copied), f"loss curve: {report.loss_svg}"]


def _figures(report: Report) -> list[str]:
    baselines = report.baselines
    part = f" (on the first {report.base_tokens:,} tokens)" if report.base_tokens else ""
    untouched = [] if report.base is None else [(f"base untouched{part}", report.base)]
    rows = [
        ("this model", report.figures["bits_per_byte"]),
        *untouched,
        (baselines.compressor, baselines.compressed),
        ("byte unigram", baselines.unigram),
        ("uniform bytes", baselines.uniform),
    ]
    return [
        f"on the held-out text: loss {report.figures['val_loss']:.3f} nats per token, "
        f"perplexity {report.figures['perplexity']:.4g}",
        f"bits per byte: {', '.join(f'{name} {bits:.3f}' for name, bits in rows)}",
        explanation(report),
    ]


def _copied(copied: CopyRate) -> str:
    if not copied.longest:
        return "copied from the training text: nothing"
    line = " ".join(copied.longest.split())
    shown = line if len(line) <= SHOWN_CHARACTERS else line[:SHOWN_CHARACTERS] + "..."
    return f"copied from the training text: {copied.share:.0%} of a sample, such as {shown!r}"
