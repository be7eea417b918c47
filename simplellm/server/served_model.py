"""The model that a server answers with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from simplellm.config.sampling import SamplingParams
from simplellm.inference.engine.engine import Engine
from simplellm.inference.sampler import Sampler
from simplellm.server.api_error import ApiError


@dataclass(frozen=True)
class ServedModel:
    """A loaded model and the engine that computes its replies.

    name: in the API. folder: its checkpoint. created: of the checkpoint, seconds since 1970.
    defaults, chat_defaults: settings of requests that give none, without and with a chat template.
    """

    name: str
    folder: Path
    created: int
    sampler: Sampler
    engine: Engine
    defaults: SamplingParams
    chat_defaults: SamplingParams

    @property
    def context(self) -> int:
        """Tokens that the model can read at once."""
        return self.sampler.block_size

    def require(self, name: str | None) -> None:
        """ApiError if `name` is given and is not the name of this model."""
        if name is not None and name != self.name:
            raise ApiError(
                404,
                f"the model {name[:100]!r} does not exist; this server has {self.name!r}",
                param="model",
                code="model_not_found",
            )
