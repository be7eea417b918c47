"""Merge lists of other tokenizers: the order in which tiktoken, which has no list, does the same.

A merge list names pairs of tokens; the earliest pair in a word is merged first. tiktoken merges any
two tokens whose concatenation is a token, the one of lowest rank first. Both give the same ids if
each token is built by one pair only: the pair that is left when the earlier merges have been
applied to the token alone. Then the same pair is left wherever the token can occur, because no
merge before it crosses the ends of the token.

Whether a pair (a, b) is left is decided without encoding: undo the merges at the boundary between a
and b, the latest first, and look whether two tokens that met there would have been merged earlier
(https://github.com/github/rust-gems, crate bpe). All tokens of a length are checked at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class MergeList:
    """A merge list. Token k of n has lengths[k] bytes; merge m joins left[m], right[m] to whole[m].

    All arrays are int64. A pair occurs once.
    """

    lengths: np.ndarray  # (n,)
    left: np.ndarray  # (M,)
    right: np.ndarray  # (M,)
    whole: np.ndarray  # (M,)


@dataclass(frozen=True)
class MergeOrder:
    """ranks (n,): the merge that builds each token; -1 for a single byte, NEVER if none does.

    is_regular: tiktoken gives the ids of the merge list, if tokens of rank NEVER are left out.
    """

    ranks: np.ndarray
    is_regular: bool


def merge_order(merges: MergeList) -> MergeOrder:
    """Which merge builds each token."""
    boundary = _Boundary(merges)
    ranks = np.where(merges.lengths == 1, -1, NEVER)
    order = np.argsort(merges.lengths[merges.whole], kind="stable")
    sorted_lengths = merges.lengths[merges.whole][order]
    for length in np.unique(sorted_lengths):
        begin, end = np.searchsorted(sorted_lengths, [length, length + 1])
        group = order[begin:end]  # the merges that build tokens of this length, by rank
        parts = np.maximum(ranks[merges.left[group]], ranks[merges.right[group]])
        group = group[parts < group]
        group = group[boundary.is_left(group, ranks)]
        for merge in group[::-1]:  # at most one for each token
            ranks[merges.whole[merge]] = merge
    unbuilt = ranks[merges.whole] == NEVER
    parts = np.maximum(ranks[merges.left], ranks[merges.right])
    may_be_merged_late = unbuilt & (parts != NEVER) & (parts >= np.arange(len(parts)))
    return MergeOrder(ranks, is_regular=not bool(may_be_merged_late.any()))


class _Boundary:
    """Looks up the merge of two tokens that meet at a boundary."""

    def __init__(self, merges: MergeList) -> None:
        self._merges = merges
        self._n_tokens = len(merges.lengths)
        keys = merges.left * self._n_tokens + merges.right
        self._order = np.argsort(keys)
        self._keys = keys[self._order]

    def is_left(self, pairs: np.ndarray, ranks: np.ndarray) -> np.ndarray:
        """For each merge in `pairs`: whether its two tokens are left when it is its turn.

        `ranks` are known for all tokens that are shorter than the merged ones.
        """
        a, b, limits = self._merges.left[pairs], self._merges.right[pairs], pairs.copy()
        result = np.zeros(len(pairs), dtype=bool)
        active = np.arange(len(pairs))
        while len(active):
            left, right, limit = a[active], b[active], limits[active]
            is_open = self._rank(left, right) >= limit
            active, left, right = active[is_open], left[is_open], right[is_open]
            rank_left, rank_right = ranks[left], ranks[right]
            is_done = (rank_left < 0) & (rank_right < 0)
            result[active[is_done]] = True
            undo_left = rank_left > rank_right
            undo_right = ~undo_left & ~is_done
            of_left, of_right = active[undo_left], active[undo_right]
            a[of_left] = self._merges.right[rank_left[undo_left]]
            limits[of_left] = rank_left[undo_left]
            b[of_right] = self._merges.left[rank_right[undo_right]]
            limits[of_right] = rank_right[undo_right] + 1  # among equals the left one is first
            active = active[~is_done]
        return result

    def _rank(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """The merges of these pairs; NEVER where there is none."""
        if not len(self._keys):
            return np.full(len(left), NEVER)
        keys = left * self._n_tokens + right
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[places] == keys, self._order[places], NEVER)
