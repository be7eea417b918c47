"""The interface of an architecture: its parts, its initial weights, and its Hugging Face names.

`SimpleLLM` has what all architectures share. An architecture is a subclass of `Architecture` in a
module of its own, an entry in config/architectures.py and a line in registry.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

import numpy as np
from torch import nn

from simplellm.config.model import ModelConfig
from simplellm.errors import CheckpointError
from simplellm.model.block import TransformerBlock
from simplellm.model.rope import rope_frequencies, scaled_frequencies

HubConfig = dict[str, Any]  # the content of config.json


@dataclass(frozen=True)
class HubNames:
    """Names of the modules in the implementation in `transformers`.

    modules: ours -> theirs, outside of the blocks.
    block_modules: ours -> theirs, inside a block; several of theirs are fused along the rows of
    ours.
    block_prefix: what precedes a block's number.
    base_prefix: what a file leaves out that holds the model without its head.
    buffers: ends of the names of values that are not weights; some files hold them.
    has_transposed_matrices: whether the matrices of the blocks are stored as (in, out).
    """

    modules: Mapping[str, str]
    block_modules: Mapping[str, tuple[str, ...]]
    block_prefix: str
    base_prefix: str
    buffers: tuple[str, ...] = ()
    has_transposed_matrices: bool = False


class Architecture(ABC):
    """What one architecture adds to `SimpleLLM`."""

    name: ClassVar[str]
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
        frequencies = rope_frequencies(config.head_size, config.rope_base)
        return frequencies if config.rope_factor == 1 else scaled_frequencies(frequencies, config)

    @abstractmethod
    def initial_std(self, config: ModelConfig, name: str) -> float:
        """Standard deviation of the initial values of the matrix or table `name` (normal).

        Norm weights start at 1 and biases at 0.
        """

    def describes(self, data: HubConfig) -> bool:
        """Whether a config.json is that of a model of this architecture."""
        return data["model_type"] == self.model_type

    @abstractmethod
    def to_hub_config(self, config: ModelConfig) -> HubConfig:
        """The entries of config.json that are particular to this architecture."""

    @abstractmethod
    def from_hub_config(self, data: HubConfig, context: int | None = None) -> ModelConfig:
        """The inverse of `to_hub_config`, for any model of this type.

        context: limit of the context in tokens; None is that of the architecture.

        KeyError, TypeError, ValueError or SettingError for content that is not understood, and
        CheckpointError that names an option that is not supported.
        """


def refuse(what: str, supported: str) -> NoReturn:
    """Raise the CheckpointError for an option of a model that is not supported."""
    raise CheckpointError(f"{what} is not supported", fix=f"supported: {supported}")
