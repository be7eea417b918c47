"""Packed documents: each target once in an epoch, no document in two blocks, exact resume."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simplellm.data.marked_ids import MarkedIds
from simplellm.data.packed_dataset import Batch, PackedDataset, pack
from simplellm.errors import TextError

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=30).filter(lambda n: max(n) > 1)
some = settings(max_examples=40)


def documents_of(lengths: list[int]) -> MarkedIds:
    """Each id is its own position, and two of three are learned."""
    ids = np.arange(sum(lengths), dtype=np.uint32)
    return MarkedIds(ids, ids % 3 > 0, np.cumsum([0, *lengths]))


def blocks_of(dataset: PackedDataset, epoch: int = 0) -> list[Batch]:
    """The blocks of an epoch, one in each batch."""
    n = dataset.windows_per_epoch
    return [dataset.batch(epoch * n + index, 0, 1) for index in range(n)]


def targets_of(batch: Batch) -> list[tuple[int, int, float]]:
    """Input, target and weight wherever there is no padding."""
    assert batch.weights is not None and batch.documents is not None
    rows = zip(batch.ids[0], batch.targets[0], batch.weights[0], strict=True)
    is_padding = (batch.ids[0] == 0) & (batch.targets[0] == 0)
    return [
        (int(i), int(t), float(w)) for (i, t, w), skip in zip(rows, is_padding, strict=True)
        if not skip
    ]  # fmt: skip


@given(lengths=LENGTHS, block_size=st.integers(2, 24), epoch=st.integers(0, 3))
@some
def test_each_target_of_each_document_is_there_once_in_an_epoch(
    lengths: list[int], block_size: int, epoch: int
) -> None:
    documents = documents_of(lengths)
    dataset = PackedDataset(documents, block_size, seed=5, prompt_weight=0.25)
    seen = [row for block in blocks_of(dataset, epoch) for row in targets_of(block)]
    firsts = set(documents.starts[:-1].tolist())
    expected = [
        (i - 1, i, 1.0 if i % 3 else 0.25) for i in range(sum(lengths)) if i not in firsts
    ]  # an input and its target are neighbours in their document
    assert Counter(seen) == Counter(expected)


@given(lengths=LENGTHS, block_size=st.integers(2, 24))
@some
def test_a_document_that_fits_a_block_is_not_cut(lengths: list[int], block_size: int) -> None:
    documents = documents_of(lengths)
    whole = 0
    for block in blocks_of(PackedDataset(documents, block_size, seed=5)):
        assert block.documents is not None
        numbers = block.documents[0]
        assert (numbers.diff() >= 0).all()
        for number in numbers.unique():
            ids = block.ids[0][numbers == number]
            whole += int(len(ids) + 1 in lengths and (ids.diff() == 1).all())
    assert whole >= sum(1 < length <= block_size + 1 for length in lengths)


@given(lengths=LENGTHS, step=st.integers(0, 50), seed=st.integers(0, 3))
@some
def test_a_batch_depends_on_its_arguments_only(lengths: list[int], step: int, seed: int) -> None:
    used = PackedDataset(documents_of(lengths), 16, seed)
    for other in (step + 3, 0, step + 1):
        used.batch(other, 0, 2)
    fresh = PackedDataset(documents_of(lengths), 16, seed)
    for a, b in zip(used.batch(step, 0, 2), fresh.batch(step, 0, 2), strict=True):
        assert a == b if isinstance(a, float) else torch.equal(a, b)


@given(lengths=LENGTHS, step=st.integers(0, 9), ranks=st.sampled_from([1, 2, 4]))
@some
def test_processes_and_micro_steps_share_the_blocks_of_a_step(
    lengths: list[int], step: int, ranks: int
) -> None:
    dataset = PackedDataset(documents_of(lengths), 16, seed=1, prompt_weight=0.1)
    parts = [dataset.batch(step, m, 2, 4 // ranks, r, ranks) for m in range(4 // ranks)
             for r in range(ranks)]  # fmt: skip
    whole = dataset.batch(step, 0, 8)
    assert torch.equal(torch.cat([part.ids for part in parts]), whole.ids)
    weights = [float(part.weights.sum()) for part in parts if part.weights is not None]
    assert [part.share for part in parts] == pytest.approx(
        [ranks * weight / sum(weights) for weight in weights], abs=1e-6
    )
    assert whole.share == pytest.approx(1)


def test_epochs_and_seeds_differ_in_order_only() -> None:
    documents = documents_of([9] * 40)

    def order(seed: int, epoch: int) -> list[int]:
        blocks = blocks_of(PackedDataset(documents, 20, seed), epoch)
        return [int(id) for block in blocks for id, _, _ in targets_of(block)]

    assert order(1, 0) != order(1, 1) and order(1, 0) != order(2, 0)
    assert sorted(order(1, 0)) == sorted(order(1, 1)) == sorted(order(2, 0))


@given(sizes=st.lists(st.integers(1, 12), max_size=40).map(lambda n: sorted(n, reverse=True)))
@some
def test_blocks_are_full_where_that_is_possible(sizes: list[int]) -> None:
    blocks = pack(sizes, 12)
    assert sorted(index for block in blocks for index in block) == list(range(len(sizes)))
    loads = [sum(sizes[index] for index in block) for block in blocks]
    assert all(load <= 12 for load in loads)
    assert sum(load <= 6 for load in loads) <= 1  # two such blocks would fit one


def test_documents_without_a_target_are_refused() -> None:
    with pytest.raises(TextError, match="no conversations"):
        PackedDataset(documents_of([1, 1]), 8, seed=0)
