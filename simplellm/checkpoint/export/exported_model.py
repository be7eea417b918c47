"""What an export format gets to write: a model, its tokenizer, and where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from simplellm.checkpoint.hugging_face import to_hub_config, to_hub_state
from simplellm.checkpoint.importing.source_model import Generation, SourceModel
from simplellm.checkpoint.pointers import Figures
from simplellm.checkpoint.tensors import LazyTensor
from simplellm.config.model import ModelConfig
from simplellm.data.tokenizer import Tokenizer
from simplellm.errors import Notice
from simplellm.model.architecture import Architecture, HubConfig
from simplellm.model.registry import ARCHITECTURES
from simplellm.model.transformer import SimpleLLM
from simplellm.storage.json_files import JsonMapping


@dataclass(frozen=True)
class ExportedModel:
    """A model to be written in another format.

    name: of the run. source: weights, which are read one by one, tokenizer and chat template.
    info: content of its run.json; empty if there is none. figures: measured on its checkpoint.
    held_out: reads the documents of its validation text; none if they are not there any more.
    notice: receives what the user should know about the result.
    """

    name: str
    source: SourceModel
    info: JsonMapping = field(default_factory=dict)
    figures: Figures = field(default_factory=dict)
    held_out: Callable[[], Sequence[str]] = tuple
    notice: Notice = lambda text: None

    @property
    def config(self) -> ModelConfig:
        return self.source.config

    @property
    def tokenizer(self) -> Tokenizer:
        return self.source.tokenizer

    @property
    def tensors(self) -> Mapping[str, LazyTensor]:
        """By their names in `transformers`."""
        return self.source.tensors

    @property
    def architecture(self) -> Architecture:
        return ARCHITECTURES[self.config.architecture]

    @property
    def hub_config(self) -> HubConfig:
        """The content of config.json."""
        return to_hub_config(self.config, self.tokenizer.end_of_text)

    @property
    def n_parameters(self) -> int:
        return self.source.n_parameters


def source_of(
    network: SimpleLLM, tokenizer: Tokenizer, source: str, generation: Generation | None = None
) -> SourceModel:
    """A loaded model as the source of an export; `source` names it in messages."""
    config = network.config
    tensors = {
        hub_name: LazyTensor(
            tuple(part.shape), tensor.dtype, partial(_hub_tensor, name, tensor, config, hub_name)
        )
        for name, tensor in network.state_dict().items()
        for hub_name, part in to_hub_state({name: tensor.to("meta")}, config).items()
    }
    generation = generation or Generation((tokenizer.end_of_text,))
    return SourceModel(source, config, tensors, tokenizer, generation)


def _hub_tensor(name: str, tensor: Tensor, config: ModelConfig, hub_name: str) -> Tensor:
    return to_hub_state({name: tensor.cpu()}, config)[hub_name].clone()
