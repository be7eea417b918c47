"""The interface of an architecture: its parts, its initial weights, and its Hugging Face names.

`SimpleLLM` has what all architectures share. An architecture is a subclass of `Architecture` in a
module of its own, an entry in config/architectures.py and a line in registry.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import nn

from simplellm.config.model import ModelConfig
from simplellm.model.block import TransformerBlock
from simplellm.model.rope import rope_frequencies

HubConfig = dict[str, Any]  # the content of config.json


@dataclass(frozen=True)
class HubNames:
    """Names of the modules in the implementation in `transformers`.

    modules: ours -> theirs, outside of the blocks.
    block_modules: ours -> theirs, inside a block; several of theirs are fused along the rows of
    ours.
    block_prefix: what precedes a block's number.
    has_transposed_matrices: whether the matrices of the blocks are stored as (in, out).
    """

    modules: Mapping[str, str]
    block_modules: Mapping[str, tuple[str, ...]]
    block_prefix: str
    has_transposed_matrices: bool = False


class Architecture(ABC):
    """What one architecture adds to `SimpleLLM`."""

    model_type: ClassVar[str]  # in config.json
    hub_names: ClassVar[HubNames]

    @abstractmethod
    def build_block(self, config: ModelConfig, layer: int) -> TransformerBlock:
        """The block number `layer`, counted from 0, with weights not yet drawn."""

    @abstractmethod
    def build_norm(self, config: ModelConfig) -> nn.Module:
        """A norm of the residual stream; the last one stands before the logits."""

    def rope_frequencies(self, config: ModelConfig) -> np.ndarray:
        """Radians per position, (head_size / 2); called only where positions are rotary."""
        return rope_frequencies(config.head_size)

    @abstractmethod
    def initial_std(self, config: ModelConfig, name: str) -> float:
        """Standard deviation of the initial values of the matrix or table `name` (normal).

        Norm weights start at 1 and biases at 0.
        """

    @abstractmethod
    def to_hub_config(self, config: ModelConfig) -> HubConfig:
        """The entries of config.json that are particular to this architecture."""

    @abstractmethod
    def from_hub_config(self, data: HubConfig) -> ModelConfig:
        """The inverse of `to_hub_config`; KeyError, TypeError or SettingError for other content."""
