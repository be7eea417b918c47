"""What a reader of another format returns: a model whose weights are read one by one.

A reader checks all that it states against the size of its files before it returns: names, shapes,
types and byte ranges of the tensors. Errors are CheckpointError or TokenizerError.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from simplellm.checkpoint.generation import Generation as Generation
from simplellm.checkpoint.tensors import LazyTensor as LazyTensor
from simplellm.config.model import ModelConfig
from simplellm.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class SourceModel:
    """A model in another format.

    source: what it was read from, for run.json and messages.
    config: its config, with the context that it was made for.
    tensors: its weights by the names and with the shapes of `transformers`.
    generation: special tokens and the chat template, which is not yet parsed.
    """

    source: str
    config: ModelConfig
    tensors: Mapping[str, LazyTensor]
    tokenizer: Tokenizer
    generation: Generation = field(default_factory=Generation)

    @property
    def n_parameters(self) -> int:
        return sum(prod(tensor.shape) for tensor in self.tensors.values())
