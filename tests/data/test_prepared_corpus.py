"""Prepared corpora: the training and validation split, and the token ids on disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from simplellm.data.corpus import Corpus, read_corpus
from simplellm.data.prepared_corpus import Prepared, find_prepared, prepare
from simplellm.data.tokenizer import Tokenizer
from simplellm.errors import TextError

Prepare = Callable[..., Prepared]


@pytest.fixture
def make(tmp_path: Path) -> Prepare:
    def make(text: str, tokenizer: str | Tokenizer = "bpe", val: str | None = None) -> Prepared:
        val_corpus = _corpus(tmp_path / "val.txt", val) if val is not None else None
        return prepare(
            _corpus(tmp_path / "a.txt", text),
            val_corpus,
            0.1,
            tokenizer,
            300,
            tmp_path / "prepared",
        )

    return make


def _corpus(path: Path, text: str) -> Corpus:
    path.write_text(text, encoding="utf-8")
    return read_corpus([str(path)])


def test_ids_decode_to_training_and_validation_text(make: Prepare, story: str) -> None:
    prepared, cut = make(story), int(len(story) * 0.9)
    train, held_out = (
        prepared.tokenizer.decode(ids.tolist()) for ids in (prepared.train_ids, prepared.val_ids)
    )
    assert (train, held_out) == (story[:cut], story[cut:])
    assert (prepared.train_bytes, prepared.val_bytes) == (
        len(train.encode()),
        len(held_out.encode()),
    )
    assert prepared.train_documents() == [train] and prepared.documents.tolist() == [[0, 1]]
    assert prepared.train_ids[0] == prepared.val_ids[0] == prepared.tokenizer.end_of_text


def test_the_validation_part_does_not_influence_the_tokenizer(make: Prepare, story: str) -> None:
    cut = int(len(story) * 0.9)
    first, second = make(story), make(story[:cut] + "Q" * (len(story) - cut))
    assert second.tokenizer.fingerprint == first.tokenizer.fingerprint
    assert np.array_equal(first.train_ids, second.train_ids) and not np.array_equal(
        first.val_ids, second.val_ids
    )


def test_a_separate_validation_text_does_not_influence_the_tokenizer(
    make: Prepare, story: str
) -> None:
    first, second = make(story, val="something else"), make(story, val="Q" * 500)
    assert second.tokenizer.fingerprint == first.tokenizer.fingerprint
    assert first.tokenizer.decode(first.train_ids.tolist()) == story
    assert second.tokenizer.decode(second.val_ids.tolist()) == "Q" * 500


def test_a_prepared_corpus_is_reused(
    make: Prepare, story: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make(story)
    before = {
        path: (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in (tmp_path / "prepared").rglob("*")
    }
    monkeypatch.setattr(Tokenizer, "train", None)
    second = make(story)
    assert {
        path: (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in (tmp_path / "prepared").rglob("*")
    } == before
    assert (
        np.array_equal(first.train_ids, second.train_ids)
        and second.tokenizer.fingerprint == first.tokenizer.fingerprint
    )


def test_other_texts_and_tokenizers_get_folders_of_their_own(
    make: Prepare, story: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    for arguments in ((story,), (story + "x",), (story, tokenizer), (story, "bpe", "validation")):
        make(*arguments)
    assert len(list((tmp_path / "prepared").iterdir())) == 4


def test_ids_on_disk_are_memory_mapped(make: Prepare, story: str) -> None:
    prepared = make(story)
    assert isinstance(prepared.train_ids, np.memmap) and prepared.train_ids.dtype == np.dtype("<u2")
    with pytest.raises(ValueError, match="read-only"):
        prepared.train_ids[0] = 0


@pytest.mark.slow
def test_a_vocabulary_over_65536_uses_four_bytes_per_id(make: Prepare) -> None:
    singles = {bytes([i]): i for i in range(256)}
    pairs = {bytes([i, j]): 256 + 256 * i + j for i in range(256) for j in range(256)}
    prepared = make("가나다라마바사 " * 50, Tokenizer(singles | pairs))
    assert (
        prepared.train_ids.dtype == np.dtype("<u4")
        and int(prepared.train_ids.max()) == 256 + 65536 > 1 << 16
    )
    assert prepared.tokenizer.decode(prepared.train_ids.tolist()) == ("가나다라마바사 " * 50)[:360]


def test_documents_are_listed_with_their_source_and_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '\n{"text": "one and"}\n{"text": ""}\n{"text": "two\\nof"}', encoding="utf-8"
    )
    (tmp_path / "b.txt").write_text("three 한글", encoding="utf-8")
    corpus = read_corpus([str(tmp_path / "a.jsonl"), str(tmp_path / "b.txt")])
    prepared = prepare(corpus, None, 0.1, "bpe", 300, tmp_path / "prepared")
    assert prepared.documents.tolist() == [[0, 2], [0, 4], [1, 1]]
    assert prepared.train_documents() == ["one and", "two\nof", "three"]
    found = find_prepared(prepared.folder)
    assert found is not None and found.train_documents() == prepared.train_documents()
    (prepared.folder / "documents.bin").write_bytes(b"")
    assert find_prepared(prepared.folder) is None


def test_prepared_files_are_synced_before_their_folder_is_renamed(
    make: Prepare, story: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    durable: set[int] = set()
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda handle: (durable.add(os.fstat(handle).st_ino), fsync(handle))
    )
    make(story)
    files = [path for path in (tmp_path / "prepared").rglob("*") if path.is_file()]
    assert (
        len(files) == 5 and [path.name for path in files if path.stat().st_ino not in durable] == []
    )


def test_a_failed_preparation_leaves_no_files(
    make: Prepare, story: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(tokenizer: Tokenizer, text: str) -> np.ndarray:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Tokenizer, "encode_array", full)
    with pytest.raises(OSError, match="No space"):
        make(story)
    assert list((tmp_path / "prepared").iterdir()) == []


def test_a_text_of_one_character_cannot_be_split(make: Prepare) -> None:
    with pytest.raises(TextError, match="1 characters cannot be split"):
        make("a")
