"""The weights of a model that is in memory, each converted for a file when it is written."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from torch import Tensor

from simplellm.checkpoint.hugging_face import to_hub_state
from simplellm.checkpoint.tensors import LazyTensor, State
from simplellm.model.transformer import SimpleLLM


def lazy_weights(model: SimpleLLM, dtype: torch.dtype = torch.float32) -> Mapping[str, LazyTensor]:
    """By their names in `transformers`, with adapters merged; one is computed at a time."""

    @functools.lru_cache(maxsize=1)  # several of theirs are parts of one of ours
    def parts_of(name: str) -> State:
        return to_hub_state({name: weight_of(model, name).cpu()}, model.config)

    def read(name: str, hub_name: str) -> Tensor:
        return parts_of(name)[hub_name].to(dtype, copy=True)

    with torch.device("meta"):
        template = SimpleLLM(model.config).state_dict()
    return {
        hub_name: LazyTensor(tuple(part.shape), dtype, functools.partial(read, name, hub_name))
        for name, like in template.items()
        for hub_name, part in to_hub_state({name: like}, model.config).items()
    }


def weight_of(model: SimpleLLM, name: str) -> Tensor:
    """The weight called `name` in the state of a model without adapters, in float32."""
    path, _, kind = name.rpartition(".")
    weight: Tensor = getattr(model.get_submodule(path), kind)
    return weight.detach()


def are_bfloat16(model: SimpleLLM) -> bool:
    """Whether bfloat16 holds exactly the same weights."""
    return all(
        bool((weight == weight.bfloat16().float()).all())
        for weight in (tensor.read() for tensor in lazy_weights(model).values())
    )
