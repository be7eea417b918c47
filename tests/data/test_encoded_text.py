"""Encoded texts: the ids of `prepare`, read in parts of bounded size."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from simplellm.data.corpus import read_corpus
from simplellm.data.encoded_text import encoded
from simplellm.data.prepared_corpus import prepare
from simplellm.data.source import TextFormat
from simplellm.data.tokenizer import Tokenizer

EVERY_TOKEN = TextFormat(keeps_duplicates=True)


def test_the_ids_are_those_of_a_prepared_text(tmp_path: Path, tokenizer: Tokenizer) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"Document {n}."}) + "\n" for n in range(50)))
    corpus = read_corpus([str(text)])
    prepared = prepare(corpus, replace(corpus), 0.1, tokenizer, 0, tmp_path / "prepared")
    shares: list[float] = []
    with encoded(corpus, tokenizer, shares.append) as ids:
        assert len(ids) == len(prepared.train_ids)
        assert ids[0 : len(ids)].tolist() == prepared.train_ids.tolist()
        assert ids[3:9].tolist() == prepared.train_ids[3:9].tolist() and not len(ids[9:3])
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1.0)


def test_the_memory_of_an_evaluated_text_does_not_grow_with_its_documents(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    peaks = []
    for n_documents in (1000, 8000):
        text = tmp_path / f"{n_documents}.jsonl"
        text.write_text("".join(f'{{"text": "Nr. {n}"}}\n' for n in range(n_documents)))
        tracemalloc.start()
        corpus = read_corpus([str(text)], EVERY_TOKEN)
        with encoded(corpus, tokenizer) as ids:
            assert len(ids) > n_documents
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1_250_000 + peaks[0], "a block of the file and its lines, no more"
