"""Documents with marks: a sample of them, and the first ones."""

from __future__ import annotations

import numpy as np
import pytest

from simplellm.data.marked_ids import MarkedIds


def documents(n: int) -> MarkedIds:
    """Document d is d ids of the number d, of which the last is learned."""
    sizes = range(2, n + 2)
    ids = np.concatenate([np.full(size, size) for size in sizes])
    starts = np.cumsum([0, *sizes])
    learned = np.zeros(len(ids), bool)
    learned[starts[1:] - 1] = True
    return MarkedIds(ids, learned, starts)


@pytest.mark.parametrize(
    ("n_targets", "sizes"), [(3, [2, 5, 8]), (9, range(2, 11)), (99, range(2, 11))]
)
def test_a_sample_has_whole_documents_from_everywhere(n_targets, sizes) -> None:
    sample = documents(9).sample(n_targets)
    assert sample.lengths.tolist() == list(sizes) and sample.n_learned == len(sample)
    for start, stop in zip(sample.starts[:-1], sample.starts[1:], strict=True):
        assert (sample.ids[start:stop] == stop - start).all()
