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
    """`segmenter(epoch, merged)` gives the ids of the text in that epoch: a pure function of the seed and these.

    A share `merged` of the places take the word as the tokenizer cuts it, the others one of its random segmentations.
    """

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

    def __call__(self, epoch: int, merged: float = 0.0) -> np.ndarray:
        generator = np.random.default_rng((self._seed, epoch))
        uniform, is_merged = generator.random(len(self._words)), generator.random(len(self._words)) < merged
        variants = 1 + (uniform * (self._n_variants[self._words] - 1)).astype(np.int64)
        drawn = self._first_variant[self._words] + np.where(
            is_merged, 0, np.minimum(variants, self._n_variants[self._words] - 1)
        )
        lengths = self._lengths[drawn]
        ends = np.cumsum(lengths)
        shifts = np.repeat(self._starts[drawn] - (ends - lengths), lengths)
        return self._ids[shifts + np.arange(ends[-1])]


def _variants(tokenizer: Tokenizer, word: str, probability: float, n: int, uniform: Callable[[], float]) -> list[list[int]]:
    """The word as the tokenizer cuts it, then `n` random segmentations (none where there is but one)."""
    if not word:
        return [[tokenizer.end_of_text]]
    merged = tokenizer.encode_with_dropout(word, 0.0, uniform)
    if len(word.encode()) == 1:
        return [merged]
    return [merged] + [tokenizer.encode_with_dropout(word, probability, uniform) for _ in range(n)]
