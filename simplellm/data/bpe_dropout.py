"""Segmentation: a new random encoding of a small text in each epoch (augmentation).

Two things vary: how words are cut into tokens (BPE-dropout, Provilkov et al. 2020, the strongest
regularizer on small text) and which names occur (see
name_augmentation.py). Both are constant within a
passage, so that repetitions in the text are repetitions in the ids.

Random merges for a whole text are slow. Each distinct word is therefore segmented a few times in
advance, and an epoch draws one of these variants for each word of a passage: one numpy gather.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import numpy as np

from simplellm.data.name_augmentation import Renamer
from simplellm.data.tokenizer import LONG_WORD, Tokenizer

MAX_VARIANTS = 16  # random segmentations per word
EXTRA_VARIANTS = 6  # per word, in addition to two for each occurrence
DEFAULT_PASSAGE = 128  # words


class Segmenter:
    """`segmenter(epoch, merged)`: token ids of the text, a pure function of these and the seed.

    A fraction `merged` of the words gets the tokenizer's own segmentation, the others a random one.
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
        """`renaming`: fraction of the names in a passage to replace; `passage`: its words."""
        self._seed, self._renaming, self._passage = seed, renaming, passage
        words = [  # "" stands for the beginning of a document
            word for document in documents for word in ("", *tokenizer.split(document))
        ]
        counts = Counter(words)
        number_of = {word: number for number, word in enumerate(counts)}
        self._words = np.array([number_of[word] for word in words])
        self._renamer = (
            Renamer(list(counts), list(counts.values()), passage, seed) if renaming else None
        )
        made_up = self._renamer.made_up if self._renamer else []
        uniform = random.Random(seed).random
        variants = [
            _variants(tokenizer, word, bpe_dropout, _n_variants(count), uniform)
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
        n_words = len(self._n_variants)
        phase = generator.integers(self._passage)
        passages = (np.arange(len(self._words)) + phase) // self._passage
        # One choice for each distinct pair of passage and word.
        pairs, pair_of_word, counts = np.unique(
            passages * n_words + self._words, return_inverse=True, return_counts=True
        )
        words = pairs % n_words
        if self._renamer:
            words = self._renamer(words, counts, self._renaming, generator)
        uniform = generator.random(len(words))
        is_merged = generator.random(len(words)) < merged
        n_variants = self._n_variants[words]
        variants = np.minimum(1 + (uniform * (n_variants - 1)).astype(np.int64), n_variants - 1)
        drawn = (self._first_variant[words] + np.where(is_merged, 0, variants))[pair_of_word]
        return self._gather(drawn)

    def _gather(self, variants: np.ndarray) -> np.ndarray:
        """The concatenated ids of these variants."""
        lengths = self._lengths[variants]
        ends = np.cumsum(lengths)
        shifts = np.repeat(self._starts[variants] - (ends - lengths), lengths)
        return self._ids[shifts + np.arange(ends[-1])]


def _n_variants(count: int) -> int:
    """Number of random segmentations of a word that occurs `count` times."""
    return min(MAX_VARIANTS, 2 * count + EXTRA_VARIANTS)


def _variants(
    tokenizer: Tokenizer, word: str, probability: float, n: int, uniform: Callable[[], float]
) -> list[list[int]]:
    """The tokenizer's segmentation of a word, then `n` random ones (none without dropout)."""
    if not word:
        return [list(tokenizer.document_start(is_first=False))]
    if probability == 0 or len(word.encode()) == 1:
        return [tokenizer.encode(word)]
    if len(word) > LONG_WORD:
        merged = tokenizer.encode(word)
    else:
        merged = tokenizer.encode_with_dropout(word, 0.0, uniform)
    return [merged] + [tokenizer.encode_with_dropout(word, probability, uniform) for _ in range(n)]
