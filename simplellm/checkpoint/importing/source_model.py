"""What a reader of another format returns: a model whose weights are read one by one.

A reader checks all that it states against the size of its files before it returns: names, shapes,
types and byte ranges of the tensors. Errors are CheckpointError or TokenizerError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from simplellm.config.model import ModelConfig
from simplellm.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is still in a file.

    read: reads it, as a new tensor of this shape and type on the CPU; the caller may change it.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype  # float32, float16 or bfloat16
    read: Callable[[], Tensor]


@dataclass(frozen=True)
class Generation:
    """Special tokens of generation, as in generation_config.json.

    eos_ids: tokens that end a reply. bos_id: the token before a text, if there is one.
    """

    eos_ids: tuple[int, ...] = ()
    bos_id: int | None = None


@dataclass(frozen=True)
class SourceModel:
    """A model in another format.

    source: what it was read from, for run.json and messages.
    config: its config, with the context that it was made for.
    tensors: its weights by the names and with the shapes of `transformers`.
    chat_template: a jinja2 template, not yet parsed; None for a model without.
    """

    source: str
    config: ModelConfig
    tensors: Mapping[str, LazyTensor]
    tokenizer: Tokenizer
    generation: Generation = field(default_factory=Generation)
    chat_template: str | None = None
