"""What an export format gets to write: a model on the CPU, its tokenizer and its description."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from simplellm.checkpoint.hugging_face import to_hub_config, to_hub_state
from simplellm.data.tokenizer import Tokenizer
from simplellm.errors import Notice
from simplellm.model.architecture import HubConfig
from simplellm.model.transformer import SimpleLLM


@dataclass(frozen=True)
class ExportedModel:
    """name: of the run. notice: receives what the user should know about the result."""

    name: str
    network: SimpleLLM
    tokenizer: Tokenizer
    notice: Notice

    @property
    def hub_config(self) -> HubConfig:
        """The content of config.json."""
        return to_hub_config(self.network.config, self.tokenizer.end_of_text)

    def tensors(self, without_data: bool = False) -> Iterator[tuple[str, Tensor]]:
        """Each tensor and its name in `transformers`. Copies are made one by one.

        without_data: with tensors on the meta device, which have only a shape.
        """
        for name, tensor in self.network.state_dict().items():
            state = {name: tensor.to("meta") if without_data else tensor}
            yield from to_hub_state(state, self.network.config).items()
