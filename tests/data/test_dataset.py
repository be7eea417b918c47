"""Batches are arithmetic; what is held out stays out."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simplellm.data.corpus import Corpus, read_corpus
from simplellm.data.dataset import Prepared, TextDataset, encode_document, find_prepared, prepare
from simplellm.data.segmentation import Segmenter
from simplellm.data.tokenizer import Tokenizer
from simplellm.errors import TextError

law = settings(deadline=None, max_examples=60)


def _counting(n: int, block_size: int = 8, seed: int = 1, **options: Any) -> TextDataset:
    """A dataset whose ids are their own positions."""
    return TextDataset(lambda epoch: np.arange(n, dtype=np.uint16), block_size, seed, **options)


@law
@given(st.integers(9, 300), st.integers(0, 5), st.integers(0, 50), st.integers(1, 9))
def test_a_target_is_the_token_after(n: int, seed: int, step: int, batch_size: int) -> None:
    inputs, targets = _counting(n, seed=seed).batch(step, 0, batch_size)
    assert inputs.shape == targets.shape == (batch_size, 8) and inputs.dtype == torch.int64
    assert torch.equal(inputs + 1, targets) and int(targets.max()) < n and int(inputs.min()) >= 0


@law
@given(st.integers(0, 50), st.integers(0, 3), st.integers(0, 3), st.sampled_from([0.0, 0.3]))
def test_a_batch_is_a_function_of_its_place(
    step: int, micro_step: int, rank: int, noise: float
) -> None:
    used = _counting(200, noise=noise)
    used.batch(99, 0, 8)
    again = [
        dataset.batch(step, micro_step, 4, 4, rank, 4)
        for dataset in (_counting(200, noise=noise), used, used)
    ]
    assert all(torch.equal(one[i], again[0][i]) for one in again for i in (0, 1))


def test_another_seed_gives_other_batches() -> None:
    assert not torch.equal(
        _counting(500, seed=1).batch(0, 0, 8)[0], _counting(500, seed=2).batch(0, 0, 8)[0]
    )


@pytest.mark.parametrize("step", [0, 1, 7, 40])
@pytest.mark.parametrize(
    ("micro_steps", "ranks", "batch_size"), [(4, 1, 2), (1, 2, 4), (2, 2, 2), (8, 1, 1), (1, 8, 1)]
)
def test_a_step_has_the_same_windows_however_it_is_cut(
    step: int, micro_steps: int, ranks: int, batch_size: int
) -> None:
    dataset = _counting(203)
    places = [(micro_step, rank) for micro_step in range(micro_steps) for rank in range(ranks)]
    parts = [
        dataset.batch(step, micro_step, batch_size, micro_steps, rank, ranks)
        for micro_step, rank in places
    ]
    for i, whole in enumerate(dataset.batch(step, 0, 8)):
        assert torch.equal(torch.cat([part[i] for part in parts]), whole)


@law
@given(st.integers(9, 400), st.integers(0, 20), st.integers(0, 3))
def test_an_epoch_visits_each_window_once(n: int, seed: int, epoch: int) -> None:
    dataset = _counting(n, seed=seed)
    count = dataset.windows_per_epoch
    starts = sorted(int(dataset.batch(epoch * count + i, 0, 1)[0][0, 0]) for i in range(count))
    assert count == (n - 1) // 8 and len(set(starts)) == count
    assert all(later - earlier >= 8 for earlier, later in zip(starts[1:], starts[2:], strict=False))


@law
@given(st.integers(9, 200), st.integers(0, 20), st.integers(1, 8))
def test_an_epoch_visits_each_overlapping_window_once(n: int, seed: int, stride: int) -> None:
    dataset = _counting(n, seed=seed, stride=stride)
    starts = sorted(int(dataset.batch(i, 0, 1)[0][0, 0]) for i in range(dataset.windows_per_epoch))
    assert len(set(starts)) == len(starts) and starts[-1] <= n - 9
    assert all(
        later - earlier == stride for earlier, later in zip(starts[1:], starts[2:], strict=False)
    )


def test_an_epoch_is_counted_in_windows() -> None:
    assert _counting(81).epoch_of(25) == 2.5


def test_noise_replaces_a_share_of_the_inputs_and_no_target() -> None:
    plain, noisy = (
        _counting(5_000, 64).batch(3, 0, 64),
        _counting(5_000, 64, noise=0.25).batch(3, 0, 64),
    )
    assert torch.equal(plain[1], noisy[1])
    assert 0.2 < float((plain[0] != noisy[0]).float().mean()) < 0.3


@pytest.mark.parametrize("n", [1, 2, 3, 4, 10, 32])
def test_the_fix_for_a_text_shorter_than_a_block_works(n: int) -> None:
    with pytest.raises(TextError, match=f"^the text has {n} tokens, a block needs 33$") as caught:
        _counting(n, block_size=32)
    for block_size in re.findall(r"--block-size (\d+)", caught.value.fix):
        assert _counting(n, int(block_size)).windows_per_epoch >= 1
    assert "more text" in caught.value.fix


def test_a_text_of_exactly_one_block_is_enough() -> None:
    assert _counting(33, block_size=32).batch(5, 0, 2)[0].tolist() == [list(range(32))] * 2


def test_an_epoch_with_fewer_tokens_than_the_first_still_fills_every_batch(
    tokenizer: Tokenizer,
) -> None:
    segmenter = Segmenter(["Once upon a time there was a verdict."], tokenizer, 0.5, 1)
    dataset = TextDataset(segmenter, len(segmenter(0)) - 1, seed=1)
    assert {tuple(dataset.batch(step, 0, 2)[0].shape) for step in range(40)} == {
        (2, dataset.block_size)
    }


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


def test_ids_decode_to_the_two_parts_of_the_text(make: Prepare, story: str) -> None:
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


def test_held_out_text_cannot_influence_the_tokenizer(make: Prepare, story: str) -> None:
    cut = int(len(story) * 0.9)
    first, second = make(story), make(story[:cut] + "Q" * (len(story) - cut))
    assert second.tokenizer.fingerprint == first.tokenizer.fingerprint
    assert np.array_equal(first.train_ids, second.train_ids) and not np.array_equal(
        first.val_ids, second.val_ids
    )


def test_a_validation_text_cannot_influence_the_tokenizer(make: Prepare, story: str) -> None:
    first, second = make(story, val="something else"), make(story, val="Q" * 500)
    assert second.tokenizer.fingerprint == first.tokenizer.fingerprint
    assert first.tokenizer.decode(first.train_ids.tolist()) == story
    assert second.tokenizer.decode(second.val_ids.tolist()) == "Q" * 500


def test_what_is_prepared_is_found_again(
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


def test_other_texts_and_tokenizers_are_prepared_apart(
    make: Prepare, story: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    for arguments in ((story,), (story + "x",), (story, tokenizer), (story, "bpe", "held out")):
        make(*arguments)
    assert len(list((tmp_path / "prepared").iterdir())) == 4


def test_ids_on_disk_are_memory_mapped(make: Prepare, story: str) -> None:
    prepared = make(story)
    assert isinstance(prepared.train_ids, np.memmap) and prepared.train_ids.dtype == np.dtype("<u2")
    with pytest.raises(ValueError, match="read-only"):
        prepared.train_ids[0] = 0


def test_a_vocabulary_over_65536_has_four_bytes_per_id(make: Prepare) -> None:
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


def test_prepared_files_are_on_the_disk_before_their_folder_has_its_name(
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


def test_a_preparation_that_fails_leaves_nothing(
    make: Prepare, story: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(tokenizer: Tokenizer, text: str) -> np.ndarray:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Tokenizer, "encode_array", full)
    with pytest.raises(OSError, match="No space"):
        make(story)
    assert list((tmp_path / "prepared").iterdir()) == []


def test_a_text_of_one_character_cannot_be_cut(make: Prepare) -> None:
    with pytest.raises(TextError, match="1 characters cannot be cut"):
        make("a")


def test_a_document_begins_with_end_of_text(tokenizer: Tokenizer) -> None:
    assert encode_document(tokenizer, "a b").tolist() == [
        tokenizer.end_of_text,
        *tokenizer.encode("a b"),
    ]
