"""Training data: a prepared text, and the dataset of its blocks or of their augmented versions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from simplellm.config.training import TrainConfig
from simplellm.data.bpe_dropout import Segmenter
from simplellm.data.dataset import TextDataset
from simplellm.data.packed_dataset import PackedDataset
from simplellm.data.prepared_corpus import Prepared

PASSAGE_BLOCKS = 2  # size of an augmented passage in blocks: few blocks span two passages


@dataclass(frozen=True)
class TrainingData:
    """A prepared text and, where it is augmented in each epoch, what segments it anew."""

    prepared: Prepared
    block_size: int
    segmenter: Segmenter | None = None

    @classmethod
    def of(cls, prepared: Prepared, config: TrainConfig, block_size: int) -> TrainingData:
        """The data with the BPE-dropout and the renaming of the config."""
        if not (config.bpe_dropout or config.renaming):
            return cls(prepared, block_size)
        segmenter = Segmenter(
            prepared.train_documents(),
            prepared.tokenizer,
            config.bpe_dropout,
            config.seed,
            config.renaming,
            PASSAGE_BLOCKS * block_size,
        )
        return cls(prepared, block_size, segmenter)

    def dataset(
        self, config: TrainConfig, world_size: int, share_done: Callable[[float], float]
    ) -> TextDataset | PackedDataset:
        """The blocks that training reads.

        Augmentation falls to none in the second half of the run. share_done: the share of the run
        (0 to 1) that is done before a step.
        """
        if self.prepared.marks is not None:
            documents = self.prepared.marks.train
            return PackedDataset(documents, self.block_size, config.seed, config.prompt_weight)
        return TextDataset(
            self._epoch_ids(config, world_size, share_done),
            self.block_size,
            config.seed,
            config.token_noise,
            config.stride,
        )

    def _epoch_ids(
        self, config: TrainConfig, world_size: int, share_done: Callable[[float], float]
    ) -> Callable[[int], np.ndarray]:
        """A function from an epoch to the token ids that it reads."""
        segmenter = self.segmenter
        if segmenter is None:
            return lambda epoch: self.prepared.train_ids
        stride = config.stride or self.block_size
        windows_per_epoch = max((len(segmenter(0)) - 1) // stride, 1)
        windows_per_step = config.batch_size * config.gradient_accumulation * world_size

        def epoch_ids(epoch: int) -> np.ndarray:
            first_step = epoch * windows_per_epoch / windows_per_step
            return segmenter(epoch, max(2 * share_done(first_step) - 1, 0.0))

        return epoch_ids
