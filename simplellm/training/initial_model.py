"""The model that a run starts with, prepared as its config says."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import torch
from torch import Tensor

from simplellm.config.lora import adapted_matrices
from simplellm.config.model import ModelConfig
from simplellm.config.training import TrainConfig
from simplellm.device import require_memory, return_freed_memory
from simplellm.model.frozen_weights import FrozenWeights
from simplellm.model.induction_heads import plant_induction_heads
from simplellm.model.lora import Lora, adapt
from simplellm.model.transformer import SimpleLLM
from simplellm.training.execution import checkpoint_gradients
from simplellm.training.freezing import freeze

FLOAT_BYTES = 4
ALPHA_PER_RANK = 2.0  # default of lora_alpha: usual
COPIES_OF_WEIGHTS = 3  # weights, gradients, and the momentum of the optimizer (Adam has two)
# Numbers that backward needs, per token, block and unit of width. Measured: 28 (gpt2) and 38
# (modern), half of that in bf16; with gradient checkpointing the input of each block.
ACTIVATIONS = 10
CHECKPOINTED_ACTIVATIONS = 1
Weights = Mapping[str, Tensor] | FrozenWeights


def initial_model(
    model_config: ModelConfig,
    config: TrainConfig,
    device: torch.device,
    weights: Weights | None = None,
) -> SimpleLLM:
    """A model on `device`, with random weights, or with `weights` by name where they are given.

    With FrozenWeights it has adapters, and shares their memory.
    DeviceError if the memory is certainly too small to train it.
    """
    require_memory(least_training_bytes(model_config, config), device)
    # Adapters bring all weights with them: those of a new model would be freed at once.
    with torch.device("meta") if isinstance(weights, FrozenWeights) else contextlib.nullcontext():
        model = SimpleLLM(model_config)
    if weights is None:
        generator = torch.Generator().manual_seed(config.seed)
        model.init_weights(generator)
        if config.induction:
            plant_induction_heads(model, generator)
    elif isinstance(weights, FrozenWeights):
        generator = torch.Generator().manual_seed(config.seed)
        adapt(model, lora_of(config, model_config), generator, weights)
    else:
        model.load_state_dict(weights)
    model.to(device)
    freeze(model, config.freeze)
    if config.gradient_checkpointing:
        checkpoint_gradients(model)
    return model


def lora_of(config: TrainConfig, model: ModelConfig) -> Lora:
    """The adapters that a config asks for."""
    alpha = config.lora_alpha or ALPHA_PER_RANK * config.lora
    return Lora(config.lora, alpha, config.lora_dropout, adapted_matrices(config, model))


def frozen_weights(
    weights: dict[str, Tensor], precision: str, new_ids: tuple[int, ...] = ()
) -> FrozenWeights:
    """Weights for adapters in steps of this precision; takes the matrices out of `weights`.

    new_ids: tokens whose rows are trained.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    frozen = FrozenWeights(weights, dtype, new_ids)
    return_freed_memory()
    return frozen


def count_parameters(config: ModelConfig) -> int:
    """Parameters of a model; allocates nothing."""
    with torch.device("meta"):
        return SimpleLLM(config).n_parameters


def least_training_bytes(model_config: ModelConfig, config: TrainConfig) -> float:
    """A lower bound of the memory that a training step takes."""
    n_parameters = count_parameters(model_config)
    activations = CHECKPOINTED_ACTIVATIONS if config.gradient_checkpointing else ACTIVATIONS
    tokens = config.batch_size * model_config.block_size
    numbers = tokens * model_config.n_layer * model_config.n_embd * activations
    copies: float = 1 if config.freeze or config.lora else COPIES_OF_WEIGHTS
    if config.lora and config.precision == "bf16":
        copies = 0.5  # 16 bits
    return FLOAT_BYTES * (copies * n_parameters + numbers)
