"""The model that a run starts with, prepared as its config says."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from simplellm.config.model import ModelConfig
from simplellm.config.training import TrainConfig
from simplellm.model.induction_heads import plant_induction_heads
from simplellm.model.transformer import SimpleLLM
from simplellm.training.execution import checkpoint_gradients
from simplellm.training.freezing import freeze


def initial_model(
    model_config: ModelConfig,
    config: TrainConfig,
    device: torch.device,
    weights: Mapping[str, Tensor] | None = None,
) -> SimpleLLM:
    """A model on `device`, with random weights, or with `weights` by name where they are given."""
    generator = torch.Generator().manual_seed(config.seed)
    model = SimpleLLM(model_config).init_weights(generator)
    if config.induction:
        plant_induction_heads(model, generator)
    model.to(device)
    if weights is not None:
        model.load_state_dict(weights)
    freeze(model, config.freeze)
    if config.gradient_checkpointing:
        checkpoint_gradients(model)
    return model
