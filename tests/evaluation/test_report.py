"""The report's figures are those of their definitions, and its copy rate is exact however the text is cut."""

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
from simplellm.evaluation.passages import PASSAGE_CHARACTERS, find_passages
from simplellm.evaluation.report import (
    COMPRESSED_HELD_OUT_BYTES,
    COMPRESSED_TRAIN_BYTES,
    baselines,
    compressed_bits,
    copy_rate,
    unigram_bits,
)
from simplellm.evaluation.training_text import byte_chunks, load_training_texts, text_chunks
from simplellm.evaluation.words import DOCUMENT_MARK

short_texts = st.text("ab \n한", max_size=160)


def visible(text: str) -> int:
    return len("".join(text.split()))


@settings(deadline=None)
@given(short_texts, short_texts, st.integers(1, 60))
def test_the_copy_rate_is_the_same_however_the_text_is_cut(
    sample: str, text: str, piece: int
) -> None:
    text = DOCUMENT_MARK + text + 2 * "한 b a " + sample[:40]
    found = copy_rate(sample, [text[i : i + piece] for i in range(0, len(text), piece)])
    assert found == copy_rate(sample, [text]) and found.sample_characters == len(sample)
    assert (
        found.longest in sample and visible(found.longest) <= found.share * visible(sample) + 1e-9
    )


def test_what_is_copied_is_copied_wholly_and_what_is_not_is_not(story: str) -> None:
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


def test_the_copy_rate_of_a_text_of_nothing_but_repetition_is_found_in_time() -> None:
    started_at = time.perf_counter()
    found = copy_rate("ha " * 1000 + "x" + " ha" * 500, ["ha " * 100_000] * 3)
    assert found.longest == ("ha " * 1000).strip() and found.share == pytest.approx(3000 / 3001)
    assert time.perf_counter() - started_at < 5.0


def test_a_megabyte_is_looked_through_in_well_under_a_second(story: str) -> None:
    words = story.split()
    text = " ".join(random.Random(1).choices(words, k=200_000))
    started_at = time.perf_counter()
    assert copy_rate(text[700_000:701_000], [text]).share > 0.98, "but for the words cut in two"
    assert time.perf_counter() - started_at < 1.0


def test_the_report_counts_what_the_chat_shows(
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
    train: bytes, held_out: bytes
) -> None:
    counts = Counter(train)
    bits = [-math.log2((counts[byte] + 1) / (len(train) + 256)) for byte in held_out]
    assert baselines([train], held_out).unigram == pytest.approx(sum(bits) / len(bits))


def test_a_unigram_that_knows_nothing_is_uniform() -> None:
    found = baselines([], b"any text")
    assert found.unigram == pytest.approx(found.uniform) and found.uniform == 8.0


def test_a_text_that_compresses_better_with_what_follows_costs_nothing() -> None:
    line = b"The first line that was read\n"
    assert min(compressed_bits(line * 7, line).values()) == 0.0


def test_a_compressor_pays_only_for_what_is_new() -> None:
    noise = random.Random(1).randbytes(5000)
    known, new = (
        compressed_bits(noise, noise[:2500]),
        compressed_bits(noise, random.Random(2).randbytes(2500)),
    )
    assert known["xz"] < 0.5 and all(7.5 < bits < 9.0 for bits in new.values())
    assert baselines([noise], noise[:2500]).compressor == min(known, key=known.__getitem__)


def test_pieces_do_not_change_the_baselines(story: str) -> None:
    data = story.encode()
    pieces = [data[i : i + 777] for i in range(0, len(data) - 2000, 777)]
    assert baselines(pieces, data[-2000:]) == baselines([b"".join(pieces)], data[-2000:])


def test_a_large_text_takes_no_longer_than_its_cap() -> None:
    data = random.Random(1).randbytes(COMPRESSED_TRAIN_BYTES + 300_000)
    held_out = random.Random(2).randbytes(COMPRESSED_HELD_OUT_BYTES + 50_000)
    capped = compressed_bits(data[-COMPRESSED_TRAIN_BYTES:], held_out[:COMPRESSED_HELD_OUT_BYTES])
    found = baselines([data[:500_000], data[500_000:]], held_out)
    assert found.compressed == min(capped.values())


def test_the_text_behind_ids_is_the_text(tokenizer: Tokenizer, story: str) -> None:
    ids = tokenizer.encode_array(story)
    assert b"".join(byte_chunks(ids, tokenizer)).decode() == story


def test_a_run_ends_with_its_report_in_its_folder(trained: Path) -> None:
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
    held_out = STORY.read_text()[-len(STORY.read_text()) // 10 :].encode()
    train = STORY.read_text()[: -len(STORY.read_text()) // 10].encode()
    counts = Counter(train)
    bits = sum(-math.log2((counts[byte] + 1) / (len(train) + 256)) for byte in held_out) / len(
        held_out
    )
    assert report["baselines"]["unigram"] == pytest.approx(bits, abs=0.01)
    assert "<svg" in (trained / "tiny" / "loss.svg").read_text()


def test_unigram_of_no_text_is_nothing() -> None:
    import numpy as np

    assert unigram_bits(np.zeros(256, dtype=np.int64), b"") == 0.0
