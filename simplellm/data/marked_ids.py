"""Token ids of documents, with a mark on each id that says whether it is learned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class MarkedIds:
    """Documents one after another. The first id of a document is never a target.

    ids (N): of all documents; it may be memory-mapped. is_learned (N) bool. starts (D + 1) int64:
    document d is ids[starts[d] : starts[d + 1]].
    """

    ids: np.ndarray
    is_learned: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        """Number of documents."""
        return len(self.starts) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Ids of each document (D)."""
        return np.diff(self.starts)

    @property
    def learned_per_document(self) -> np.ndarray:
        """Targets that are learned, (D)."""
        counts = np.concatenate([[0], np.cumsum(self.is_learned, dtype=np.int64)])
        first = self.is_learned[self.starts[:-1]] if len(self) else np.zeros(0, np.int64)
        return np.diff(counts[self.starts]) - first
