"""A fresh random segmentation of a small text for each epoch (BPE-dropout, Provilkov et al. 2020).

On small text this is the strongest regulariser there is: the model sees the same sentences cut
into other tokens each time. Drawing merges at random for a whole text is slow, so each distinct word
is segmented a few times beforehand, and an epoch draws one of them for each place: one numpy gather.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import numpy as np

from simplellm.tokenizer import Tokenizer

MOST_VARIANTS = 16  # segmentations kept of one word
RARE_WORD_VARIANTS = 6  # more than a rare word needs: two for each time it occurs are kept besides


class Segmenter:
    """`segmenter(epoch)` gives the ids of the text in that epoch: a pure function of (seed, epoch)."""

    def __init__(self, documents: list[str], tokenizer: Tokenizer, probability: float, seed: int) -> None:
        self._seed = seed
        words = [word for document in documents for word in ("", *tokenizer.split(document))]  # "": END_OF_TEXT
        counts = Counter(words)
        number_of = {word: number for number, word in enumerate(counts)}
        self._words = np.array([number_of[word] for word in words])
        uniform = random.Random(seed).random
        variants = [
            _variants(tokenizer, word, probability, min(MOST_VARIANTS, 2 * count + RARE_WORD_VARIANTS), uniform)
            for word, count in counts.items()
        ]
        flat = [ids for word_variants in variants for ids in word_variants]
        self._n_variants = np.array([len(word_variants) for word_variants in variants])
        self._first_variant = np.cumsum(self._n_variants) - self._n_variants
        self._lengths = np.array([len(ids) for ids in flat])
        self._starts = np.cumsum(self._lengths) - self._lengths
        self._ids = np.array([token for ids in flat for token in ids])

    def __call__(self, epoch: int) -> np.ndarray:
        uniform = np.random.default_rng((self._seed, epoch)).random(len(self._words))
        drawn = self._first_variant[self._words] + (uniform * self._n_variants[self._words]).astype(np.int64)
        lengths = self._lengths[drawn]
        ends = np.cumsum(lengths)
        shifts = np.repeat(self._starts[drawn] - (ends - lengths), lengths)
        return self._ids[shifts + np.arange(ends[-1])]


def _variants(tokenizer: Tokenizer, word: str, probability: float, n: int, uniform: Callable[[], float]) -> list[list[int]]:
    if not word:
        return [[tokenizer.end_of_text]]
    if len(word.encode()) == 1:
        return [tokenizer.encode(word)]
    return [tokenizer.encode_with_dropout(word, probability, uniform) for _ in range(n)]
