"""Conversion of weights and config to the names and shapes of `transformers`, and back.

Pure functions over dictionaries. Each architecture in model/ has its own names; reading and writing
of files is elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from simplellm.checkpoint.tensors import State
from simplellm.config.model import ModelConfig
from simplellm.errors import CheckpointError, SettingError
from simplellm.model.architecture import HubConfig, refuse
from simplellm.model.attention import qkv_rows
from simplellm.model.feed_forward import gate_up_rows
from simplellm.model.registry import ARCHITECTURES

EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")
READ_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def to_hub_config(config: ModelConfig, end_of_text: int, dtype: str = "float32") -> HubConfig:
    """The content of config.json."""
    shared = {
        "vocab_size": config.vocab_size,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "tie_word_embeddings": config.tie_embeddings,
        "dtype": dtype,
        "initializer_range": 0.02,
    }
    return shared | ARCHITECTURES[config.architecture].to_hub_config(config)


def from_hub_config(data: HubConfig, source: str, context: int | None = None) -> ModelConfig:
    """The inverse of `to_hub_config`; CheckpointError, naming `source`, for other models.

    context: limit of the context in tokens; None is that of the architecture.
    """
    try:
        for architecture in ARCHITECTURES.values():
            if architecture.describes(data):
                _refuse_options(data)
                return architecture.from_hub_config(data, context)
    except (KeyError, TypeError, ValueError, AttributeError, SettingError) as error:
        problem = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{source} is not a usable config: {problem}") from error
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}", fix=error.fix) from error
    raise CheckpointError(
        f"{source}: {str(data['model_type'])[:50]} is not supported",
        fix=f"supported: {', '.join(supported_types())}",
    )


def supported_types() -> list[str]:
    """The `model_type`s of config.json that can be opened."""
    return sorted({architecture.model_type for architecture in ARCHITECTURES.values()})


def _refuse_options(data: HubConfig) -> None:
    """CheckpointError that names an option of config.json that no architecture supports."""
    quantization = data.get("quantization_config")
    if quantization is not None:
        method = quantization.get("quant_method", "unknown")
        refuse(f"a model with quantized weights ({str(method)[:50]})", "F32, F16, BF16")
    experts = next((name for name in EXPERT_COUNTS if data.get(name)), None)
    if experts:
        refuse(f"a mixture of experts ({experts} {str(data[experts])[:20]})", "dense models")


def to_hub_state(state: State, config: ModelConfig) -> State:
    """Our weights with the names and shapes that `transformers` expects."""
    hub: State = {}
    for name, tensor in state.items():
        place = _hub_place(name, tensor, config)
        for hub_name, part in zip(place.names, place.parts, strict=True):
            hub[hub_name] = part.contiguous()
    return hub


def from_hub_state(hub: State, template: State, config: ModelConfig) -> State:
    """The inverse of `to_hub_state`; `template` has our names and shapes.

    CheckpointError names the first tensor that is missing, unknown, of another shape or type, or
    not finite.
    """
    state: State = {}
    unread = set(hub)
    for name, like in template.items():
        place = _hub_place(name, like, config)
        parts = [
            _checked(hub, hub_name, part)
            for hub_name, part in zip(place.names, place.parts, strict=True)
        ]
        unread.difference_update(place.names)
        state[name] = parts[0].t() if place.is_transposed else torch.cat(parts)
    if unread:
        raise CheckpointError(f"the weights hold {min(unread)!r}, which this model does not have")
    return state


def _checked(hub: State, name: str, like: Tensor) -> Tensor:
    if name not in hub:
        raise CheckpointError(f"the weights lack {name!r}")
    tensor = hub[name]
    if tensor.shape != like.shape:
        raise CheckpointError(
            f"{name!r} is {list(tensor.shape)}, the model expects {list(like.shape)}"
        )
    if tensor.dtype not in READ_DTYPES:
        raise CheckpointError(f"{name!r} is of type {tensor.dtype}, which is not supported")
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(f"{name!r} has values that are not finite numbers")
    return tensor


@dataclass(frozen=True)
class _HubPlace:
    """Where one of our tensors is in the state of `transformers`: names, and the part for each."""

    names: list[str]
    parts: list[Tensor]
    is_transposed: bool = False


def _hub_place(name: str, tensor: Tensor, config: ModelConfig) -> _HubPlace:
    names = ARCHITECTURES[config.architecture].hub_names
    module, kind = name.rsplit(".", 1)  # kind: weight or bias
    if not name.startswith("blocks."):
        return _HubPlace([f"{names.modules[module]}.{kind}"], [tensor])
    _, layer, module = module.split(".", 2)
    hub_names = [
        f"{names.block_prefix}{layer}.{hub_module}.{kind}"
        for hub_module in names.block_modules[module]
    ]
    if names.has_transposed_matrices and tensor.dim() == 2:
        return _HubPlace(hub_names, [tensor.t()], is_transposed=True)
    if len(hub_names) == 1:
        return _HubPlace(hub_names, [tensor])
    return _HubPlace(hub_names, list(tensor.split(_fused_rows(module, config))))


def _fused_rows(module: str, config: ModelConfig) -> tuple[int, ...]:
    return qkv_rows(config) if module == "attention.qkv" else gate_up_rows(config)
