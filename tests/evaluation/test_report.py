"""Reports: baselines and the share of copied text."""

from __future__ import annotations

import json
import math
import random
import time
from collections import Counter
from pathlib import Path

import pytest
from conftest import STORY
from hypothesis import given, settings
from hypothesis import strategies as st

from simplellm.data.tokenizer import Tokenizer
from simplellm.evaluation.copied_text.passages import PASSAGE_CHARACTERS, find_passages
from simplellm.evaluation.copied_text.training_text import (
    byte_chunks,
    load_training_texts,
    text_chunks,
)
from simplellm.evaluation.copied_text.words import DOCUMENT_MARK
from simplellm.evaluation.report import (
    Baselines,
    CopyRate,
    Report,
    baselines,
    compressed_bits,
    copy_rate,
    report_lines,
    unigram_bits,
)

short_texts = st.text("ab \n한", max_size=160)


def visible(text: str) -> int:
    return len("".join(text.split()))


@settings(deadline=None)
@given(short_texts, short_texts, st.integers(1, 60))
def test_chunks_do_not_change_the_copy_rate(sample: str, text: str, chunk: int) -> None:
    text = DOCUMENT_MARK + text + 2 * "한 b a " + sample[:40]
    found = copy_rate(sample, [text[i : i + chunk] for i in range(0, len(text), chunk)])
    assert found == copy_rate(sample, [text]) and found.sample_characters == len(sample)
    assert (
        found.longest in sample and visible(found.longest) <= found.share * visible(sample) + 1e-9
    )


def test_the_share_counts_copied_characters(story: str) -> None:
    part = story[story.index(" ", 500) : story.index(" ", 900)]
    found = copy_rate(part, [story])
    assert (found.share, found.longest, found.passage_characters) == (
        1.0,
        part.strip(),
        PASSAGE_CHARACTERS,
    )
    mixed = copy_rate(part + " \x00" * visible(part), [story])
    assert (mixed.share, mixed.longest, mixed.sample_characters) == (
        0.5,
        part.strip(),
        len(part) + 2 * visible(part),
    )
    assert copy_rate("", [story]).share == copy_rate("abc" * 20, []).share == 0.0


def test_a_long_repetition_is_searched_in_time() -> None:
    started_at = time.perf_counter()
    found = copy_rate("ha " * 1000 + "x" + " ha" * 500, ["ha " * 100_000] * 3)
    assert found.longest == ("ha " * 1000).strip() and found.share == pytest.approx(3000 / 3001)
    assert time.perf_counter() - started_at < 5.0


def test_a_megabyte_is_searched_within_a_second(story: str) -> None:
    words = story.split()
    text = " ".join(random.Random(1).choices(words, k=200_000))
    started_at = time.process_time()
    assert copy_rate(text[700_000:701_000], [text]).share > 0.98, "except the words that are cut"
    assert time.process_time() - started_at < 1.0


def test_the_report_and_the_chat_count_the_same_passages(
    trained: Path, tokenizer: Tokenizer, story: str
) -> None:
    report = json.loads((trained / "tiny" / "report.json").read_text())
    sample = story[3000:3200] + report["sample"][:200] + story[8000:8100]
    ids = tokenizer.encode_array(story[: int(len(story) * 0.9)])
    found = find_passages(sample, load_training_texts(trained / "tiny").texts)
    counted = copy_rate(sample, text_chunks(ids, tokenizer))
    assert (counted.share, counted.longest) == (
        found.share,
        found.passages[0].text,
    ) and found.share > 0.5


@settings(deadline=None)
@given(st.binary(max_size=50), st.binary(min_size=1, max_size=50))
def test_the_unigram_is_the_cross_entropy_of_smoothed_frequencies(
    train: bytes, validation: bytes
) -> None:
    counts = Counter(train)
    bits = [-math.log2((counts[byte] + 1) / (len(train) + 256)) for byte in validation]
    assert baselines([train], validation).unigram == pytest.approx(sum(bits) / len(bits))


def test_a_unigram_without_training_text_is_uniform() -> None:
    found = baselines([], b"any text")
    assert found.unigram == pytest.approx(found.uniform) and found.uniform == 8.0


def test_a_negative_compression_cost_is_zero() -> None:
    line = b"The first line that was read\n"
    assert min(compressed_bits(line * 7, line).values()) == 0.0


def test_known_text_compresses_and_new_text_does_not() -> None:
    noise = random.Random(1).randbytes(5000)
    known, new = (
        compressed_bits(noise, noise[:2500]),
        compressed_bits(noise, random.Random(2).randbytes(2500)),
    )
    assert known["xz"] < 0.5 and all(7.5 < bits < 9.0 for bits in new.values())
    assert baselines([noise], noise[:2500]).compressor == min(known, key=known.__getitem__)


def test_chunks_do_not_change_the_baselines(story: str) -> None:
    data = story.encode()
    chunks = [data[i : i + 777] for i in range(0, len(data) - 2000, 777)]
    assert baselines(chunks, data[-2000:]) == baselines([b"".join(chunks)], data[-2000:])


def test_compressors_see_a_limited_part_of_a_large_text(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, limit in (("TRAIN", 75_000), ("VAL", 10_000)):
        monkeypatch.setattr(f"simplellm.evaluation.report.COMPRESSED_{name}_BYTES", limit)
    data = random.Random(1).randbytes(75_000 + 30_000)
    validation = random.Random(2).randbytes(10_000 + 5_000)
    capped = compressed_bits(data[-75_000:], validation[:10_000])
    found = baselines([data[:50_000], data[50_000:]], validation)
    assert found.compressed == min(capped.values())


def test_byte_chunks_are_the_text_of_the_ids(tokenizer: Tokenizer, story: str) -> None:
    ids = tokenizer.encode_array(story)
    assert b"".join(byte_chunks(ids, tokenizer)).decode() == story


def test_a_run_writes_its_report_to_its_folder(trained: Path) -> None:
    report = json.loads((trained / "tiny" / "report.json").read_text())
    best = json.loads((trained / "tiny" / "best.json").read_text())
    assert (
        report["figures"]["bits_per_byte"] == best["bits_per_byte"]
        and report["figures"]["run"] == "tiny"
    )
    assert (
        report["baselines"]["uniform"] == 8.0
        and 0 < report["baselines"]["compressed"] < report["baselines"]["unigram"] < 8
    )
    assert report["sample"] and 0 <= report["copied"]["share"] <= 1
    validation = STORY.read_text()[-len(STORY.read_text()) // 10 :].encode()
    train = STORY.read_text()[: -len(STORY.read_text()) // 10].encode()
    counts = Counter(train)
    bits = sum(-math.log2((counts[byte] + 1) / (len(train) + 256)) for byte in validation) / len(
        validation
    )
    assert report["baselines"]["unigram"] == pytest.approx(bits, abs=0.01)
    assert "<svg" in (trained / "tiny" / "loss.svg").read_text()


def test_the_unigram_bits_of_no_text_are_zero() -> None:
    import numpy as np

    assert unigram_bits(np.zeros(256, dtype=np.int64), b"") == 0.0


@pytest.mark.parametrize(
    ("bits", "words"), [(1.5, "model predicts this text better"), (1.8, "still")]
)
def test_the_report_explains_whether_the_model_is_better_than_a_compressor(bits, words):
    report = Report(
        {"val_loss": 2.0, "perplexity": 7.4, "bits_per_byte": bits},
        Baselines(8.0, 4.5, 1.7, "bz2"),
        CopyRate(0.1, 20, 100, ""),
        "a sample",
        "loss.svg",
    )
    (line,) = [line for line in report_lines(report) if line.startswith("lower is better")]
    assert words in line and "bz2" in line
