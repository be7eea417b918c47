"""A fresh random way to write a small text for each epoch.

Two things change: how words are cut into tokens (BPE-dropout, Provilkov et al. 2020), on small text the strongest
regulariser there is, and what the names in it are (see renaming.py). Both are the same throughout a passage, so that what is
repeated in the text is repeated in the ids.

Drawing merges at random for a whole text is slow, so each distinct word is segmented a few times
beforehand, and an epoch draws one of them for each word of a passage: one numpy gather.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import numpy as np

from simplellm.data.renaming import Renamer
from simplellm.data.tokenizer import Tokenizer

MOST_VARIANTS = 16  # segmentations kept of one word
RARE_WORD_VARIANTS = 6  # more than a rare word needs: two for each time it occurs are kept besides
DEFAULT_PASSAGE = 128  # words


class Segmenter:
    """`segmenter(epoch, merged)` gives the ids of the text in that epoch: a pure function of the seed and these.

    A share `merged` of the words take the word as the tokenizer cuts it, the others one of its random segmentations.
    """

    def __init__(
        self,
        documents: list[str],
        tokenizer: Tokenizer,
        bpe_dropout: float,
        seed: int,
        renaming: float = 0.0,
        passage: int = DEFAULT_PASSAGE,
    ) -> None:
        """`renaming`: share of the names of a passage that are exchanged; `passage`: its length in words."""
        self._seed, self._renaming, self._passage = seed, renaming, passage
        words = [
            word for document in documents for word in ("", *tokenizer.split(document))
        ]  # "": END_OF_TEXT
        counts = Counter(words)
        number_of = {word: number for number, word in enumerate(counts)}
        self._words = np.array([number_of[word] for word in words])
        self._renamer = (
            Renamer(list(counts), list(counts.values()), passage, seed) if renaming else None
        )
        made_up = self._renamer.made_up if self._renamer else []
        uniform = random.Random(seed).random
        variants = [
            _variants(
                tokenizer,
                word,
                bpe_dropout,
                min(MOST_VARIANTS, 2 * count + RARE_WORD_VARIANTS),
                uniform,
            )
            for word, count in counts.items()
        ] + [[tokenizer.encode(word)] for word in made_up]
        flat = [ids for word_variants in variants for ids in word_variants]
        self._n_variants = np.array([len(word_variants) for word_variants in variants])
        self._first_variant = np.cumsum(self._n_variants) - self._n_variants
        self._lengths = np.array([len(ids) for ids in flat])
        self._starts = np.cumsum(self._lengths) - self._lengths
        self._ids = np.array([token for ids in flat for token in ids])

    def __call__(self, epoch: int, merged: float = 0.0) -> np.ndarray:
        generator = np.random.default_rng((self._seed, epoch))
        passages = (
            np.arange(len(self._words)) + generator.integers(self._passage)
        ) // self._passage
        places, place, times = np.unique(
            passages * len(self._n_variants) + self._words, return_inverse=True, return_counts=True
        )
        words = places % len(self._n_variants)  # one for each distinct word of a passage
        if self._renamer:
            words = self._renamer(words, times, self._renaming, generator)
        uniform, is_merged = generator.random(len(words)), generator.random(len(words)) < merged
        n_variants = self._n_variants[words]
        variants = np.minimum(1 + (uniform * (n_variants - 1)).astype(np.int64), n_variants - 1)
        drawn = (self._first_variant[words] + np.where(is_merged, 0, variants))[place]
        lengths = self._lengths[drawn]
        ends = np.cumsum(lengths)
        shifts = np.repeat(self._starts[drawn] - (ends - lengths), lengths)
        return self._ids[shifts + np.arange(ends[-1])]


def _variants(
    tokenizer: Tokenizer, word: str, probability: float, n: int, uniform: Callable[[], float]
) -> list[list[int]]:
    """The word as the tokenizer cuts it, then `n` random segmentations (none where there is but one)."""
    if not word:
        return [[tokenizer.end_of_text]]
    if probability == 0 or len(word.encode()) == 1:
        return [tokenizer.encode(word)]
    merged = tokenizer.encode_with_dropout(word, 0.0, uniform)
    return [merged] + [tokenizer.encode_with_dropout(word, probability, uniform) for _ in range(n)]
