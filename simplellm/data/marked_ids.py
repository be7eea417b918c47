"""Token ids of documents, with a mark on each id that says whether it is learned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simplellm.data.tokenizer import Tokenizer


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
    def is_target(self) -> np.ndarray:
        """Which ids are targets that are learned (N): not the first of a document."""
        targets = self.is_learned.copy()
        targets[self.starts[:-1]] = False
        return targets

    @property
    def n_learned(self) -> int:
        """Targets that are learned."""
        return int(self.is_target.sum())

    def learned_bytes(self, tokenizer: Tokenizer) -> int:
        """UTF-8 bytes of the targets that are learned; special tokens have none."""
        counts = np.bincount(self.ids[self.is_target], minlength=tokenizer.vocab_size)
        sizes = [len(tokenizer.token_bytes(token)) for token in range(len(counts))]
        return int(counts @ np.array(sizes))

    def first(self, n_targets: int) -> MarkedIds:
        """The first documents that together have at least `n_targets` learned targets, or all."""
        counts = np.cumsum(np.add.reduceat(self.is_target, self.starts[:-1], dtype=np.int64))
        n = min(int(np.searchsorted(counts, n_targets)) + 1, len(self))
        end = int(self.starts[n])
        return MarkedIds(self.ids[:end], self.is_learned[:end], self.starts[: n + 1])

    def sample(self, n_targets: int) -> MarkedIds:
        """Documents at equal distances that together have about `n_targets` learned targets."""
        numbers = range(0, len(self), max(self.n_learned // max(n_targets, 1), 1))
        parts = [slice(*self.starts[number : number + 2].tolist()) for number in numbers]
        return MarkedIds(
            np.concatenate([self.ids[part] for part in parts]),
            np.concatenate([self.is_learned[part] for part in parts]),
            np.cumsum([0, *(part.stop - part.start for part in parts)], dtype=np.int64),
        )
