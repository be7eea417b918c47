"""Conversion of weights and config to the names and shapes of `transformers`, and back.

Pure functions over dictionaries. Each architecture in model/ has its own names; reading and writing
of files is elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from simplellm.checkpoint.int8_tensors import METHOD as INT8_METHOD
from simplellm.checkpoint.tensors import LazyTensor, State, refuse_non_finite
from simplellm.config.model import ModelConfig
from simplellm.errors import CheckpointError, SettingError
from simplellm.model.architecture import HubConfig, refuse
from simplellm.model.attention import qkv_rows
from simplellm.model.feed_forward import gate_up_rows
from simplellm.model.registry import ARCHITECTURES

EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")
READ_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


COMPUTED_WITH = ("max_position_embeddings", "n_positions", "num_attention_heads")
OPTIONAL_NUMBERS = ("head_dim", "num_key_value_heads")  # null is a default


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
                _check_numbers(data)
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


def _check_numbers(data: HubConfig) -> None:
    """ValueError for an entry that is computed with before ModelConfig checks it."""
    for name in (*COMPUTED_WITH, *OPTIONAL_NUMBERS):
        value = data.get(name, 1)
        is_default = value is None and name in OPTIONAL_NUMBERS
        if not is_default and (type(value) is not int or value == 0):
            raise ValueError(f"{name} is a whole number over 0, got {value!r:.50}")


def supported_types() -> list[str]:
    """The `model_type`s of config.json that can be opened."""
    return sorted({architecture.model_type for architecture in ARCHITECTURES.values()})


def _refuse_options(data: HubConfig) -> None:
    """CheckpointError that names an option of config.json that no architecture supports."""
    quantization = data.get("quantization_config")
    if quantization is not None:
        method = quantization.get("quant_method", "unknown")
        if method != INT8_METHOD:
            refuse(f"a model with quantized weights ({str(method)[:50]})", "F32, F16, BF16")
    experts = next((name for name in EXPERT_COUNTS if data.get(name)), None)
    if experts:
        refuse(f"a mixture of experts ({experts} {str(data[experts])[:20]})", "dense models")


def to_hub_state(state: State, config: ModelConfig) -> State:
    """Our weights with the names and shapes that `transformers` expects."""
    hub: State = {}
    for name, tensor in state.items():
        place = _hub_place(name, tensor, config)
        for hub_name, part in place.items():
            hub[hub_name] = part.contiguous()
    return hub


def from_hub_state(
    hub: Mapping[str, LazyTensor], template: State, config: ModelConfig, source: str = "the weights"
) -> State:
    """The inverse of `to_hub_state`, in float32; `template` has our names and shapes.

    CheckpointError names the first tensor that is missing, unknown, of another shape or type, or
    not finite. Nothing is read before all names, shapes and types are right, and each tensor of
    `hub` is read once, so that memory holds the model and one tensor more.
    """
    hub = check_tensors(hub, template, config, source)
    state: State = {}
    for name, like in template.items():
        state[name] = _joined(_hub_place(name, like, config), hub, like, source)
    return state


def check_tensors(
    hub: Mapping[str, LazyTensor], template: State, config: ModelConfig, source: str
) -> Mapping[str, LazyTensor]:
    """`hub` with the names of this model; CheckpointError unless shapes and types are right too."""
    hub = _weights(hub, config)
    expected = {
        hub_name: part.shape
        for name, like in template.items()
        for hub_name, part in _hub_place(name, like, config).items()
    }
    for name, shape in expected.items():
        if name not in hub:
            raise CheckpointError(f"{source} has no tensor {name!r}, which its config asks for")
        if hub[name].shape != tuple(shape):
            raise CheckpointError(
                f"{name!r} in {source} has shape {list(hub[name].shape)}, expected {list(shape)}"
            )
        if hub[name].dtype not in READ_DTYPES:
            raise CheckpointError(f"{name!r} is of type {hub[name].dtype}, which is not supported")
    unknown = min(set(hub) - set(expected), default=None)
    if unknown is not None:
        raise CheckpointError(
            f"{source} has a tensor {unknown[:100]!r}, which is not part of this model"
        )
    return hub


def unused_values(config: ModelConfig) -> tuple[str, ...]:
    """Ends of the names of values that some files hold and that are not weights."""
    return ARCHITECTURES[config.architecture].hub_names.buffers


def _weights(hub: Mapping[str, LazyTensor], config: ModelConfig) -> Mapping[str, LazyTensor]:
    """Without a copy of a tied output table, and with the prefix of a model that has a head."""
    names = ARCHITECTURES[config.architecture].hub_names
    head = f"{names.modules['head']}.weight"
    if config.tie_embeddings:
        hub = {name: tensor for name, tensor in hub.items() if name != head}
    if any(name.startswith(names.base_prefix) for name in hub):
        return hub
    return {name if name == head else names.base_prefix + name: hub[name] for name in hub}


def _joined(place: _HubPlace, hub: Mapping[str, LazyTensor], like: Tensor, source: str) -> Tensor:
    """One of our tensors in float32; each of its parts is read once."""
    if len(place.names) == 1:
        joined = hub[place.names[0]].read().float()
        parts: Sequence[Tensor] = [joined]
    else:
        joined = torch.empty(like.shape, dtype=torch.float32)
        parts = joined.split([part.shape[0] for part in place.parts])
        for part, name in zip(parts, place.names, strict=True):
            part.copy_(hub[name].read())
    refuse_non_finite(dict(zip(place.names, parts, strict=True)), source)
    return joined.t().contiguous() if place.is_transposed else joined


@dataclass(frozen=True)
class _HubPlace:
    """Where one of our tensors is in the state of `transformers`: names, and the part for each."""

    names: list[str]
    parts: list[Tensor]
    is_transposed: bool = False

    def items(self) -> Iterator[tuple[str, Tensor]]:
        return zip(self.names, self.parts, strict=True)


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
