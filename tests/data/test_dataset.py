"""Training batches are a pure function of seed and position."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from conftest import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from simplellm.data.bpe_dropout import Segmenter
from simplellm.data.dataset import TextDataset, encode_document
from simplellm.data.tokenizer import Tokenizer
from simplellm.errors import TextError

law = settings(deadline=None, max_examples=examples(60))


def _counting(n: int, block_size: int = 8, seed: int = 1, **options: Any) -> TextDataset:
    """A dataset whose ids are their own positions."""
    return TextDataset(lambda epoch: np.arange(n, dtype=np.uint16), block_size, seed, **options)


@law
@given(st.integers(9, 300), st.integers(0, 5), st.integers(0, 50), st.integers(1, 9))
def test_a_target_is_the_next_token(n: int, seed: int, step: int, batch_size: int) -> None:
    inputs, targets = _counting(n, seed=seed).batch(step, 0, batch_size)
    assert inputs.shape == targets.shape == (batch_size, 8) and inputs.dtype == torch.int64
    assert torch.equal(inputs + 1, targets) and int(targets.max()) < n and int(inputs.min()) >= 0


@law
@given(st.integers(0, 50), st.integers(0, 3), st.integers(0, 3), st.sampled_from([0.0, 0.3]))
def test_a_batch_depends_only_on_its_position(
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
def test_a_step_has_the_same_windows_for_any_number_of_micro_steps_and_ranks(
    step: int, micro_steps: int, ranks: int, batch_size: int
) -> None:
    dataset = _counting(203)
    positions = [(micro_step, rank) for micro_step in range(micro_steps) for rank in range(ranks)]
    parts = [
        dataset.batch(step, micro_step, batch_size, micro_steps, rank, ranks)
        for micro_step, rank in positions
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


def test_epochs_are_counted_in_windows() -> None:
    assert _counting(81).epoch_of(25) == 2.5


def test_noise_replaces_a_fraction_of_the_inputs_and_no_target() -> None:
    plain, noisy = (
        _counting(5_000, 64).batch(3, 0, 64),
        _counting(5_000, 64, noise=0.25).batch(3, 0, 64),
    )
    assert torch.equal(plain[1], noisy[1])
    assert 0.2 < float((plain[0] != noisy[0]).float().mean()) < 0.3


@pytest.mark.parametrize("n", [1, 2, 3, 4, 10, 32])
def test_the_suggested_block_size_works_for_a_short_text(n: int) -> None:
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


def test_a_document_begins_with_end_of_text(tokenizer: Tokenizer) -> None:
    assert encode_document(tokenizer, "a b").tolist() == [
        tokenizer.end_of_text,
        *tokenizer.encode("a b"),
    ]
