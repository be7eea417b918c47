"""Weights and config convert to the names of `transformers` and back; errors name the cause."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from simplellm.checkpoint.hugging_face import (
    from_hub_config,
    from_hub_state,
    to_hub_config,
    to_hub_state,
)
from simplellm.checkpoint.tensors import State, lazy
from simplellm.config.model import ModelConfig
from simplellm.errors import CheckpointError
from simplellm.model.transformer import SimpleLLM

FIRST = {
    "modern": "model.layers.0.self_attn.k_proj.weight",
    "gpt2": "transformer.h.0.attn.c_attn.weight",
}


def test_converting_there_and_back_gives_the_same_state(tiny_model: SimpleLLM) -> None:
    state = tiny_model.state_dict()
    again = from_hub_state(lazy(to_hub_state(state, tiny_model.config)), state, tiny_model.config)
    assert set(again) == set(state) and all(torch.equal(again[name], state[name]) for name in state)


def test_every_number_is_converted_once(tiny_model: SimpleLLM) -> None:
    hub = to_hub_state(tiny_model.state_dict(), tiny_model.config)
    assert sum(tensor.numel() for tensor in hub.values()) == tiny_model.n_parameters
    assert all(tensor.is_contiguous() for tensor in hub.values())


@pytest.mark.parametrize("architecture", ["modern", "gpt2"])
@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_a_config_converts_there_and_back(architecture: str, tie_embeddings: bool) -> None:
    heads = {"n_kv_head": 2} if architecture == "modern" else {"dropout": 0.25}
    config = ModelConfig(
        architecture=architecture, n_layer=3, n_embd=48, tie_embeddings=tie_embeddings, **heads
    )
    again = from_hub_config(to_hub_config(config, end_of_text=5), "config.json")
    kept = (
        "architecture",
        "n_layer",
        "n_head",
        "n_embd",
        "block_size",
        "vocab_size",
        "kv_heads",
        "inner_size",
        "tie_embeddings",
    )
    assert [getattr(again, name) for name in kept] == [getattr(config, name) for name in kept]
    assert again.dropout == (0.25 if architecture == "gpt2" else 0.0)


@pytest.mark.parametrize(
    "damage",
    [
        {"model_type": "bert"},
        {"n_layer": None, "num_hidden_layers": None},
        {"vocab_size": "many"},
        {"vocab_size": 1},
    ],
)
def test_an_unsupported_config_is_named(tiny_model: SimpleLLM, damage: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"^here/config.json\b"):
        from_hub_config(to_hub_config(tiny_model.config, 0) | damage, "here/config.json")


def test_a_config_without_a_type_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"^here/config.json\b"):
        from_hub_config({}, "here/config.json")


def _not_a_number(hub: State, name: str) -> None:
    hub[name] = hub[name].clone()
    hub[name].view(-1)[-1] = float("nan")


def _infinite(hub: State, name: str) -> None:
    hub[name] = hub[name] / 0


DAMAGES: dict[str, Callable[[State, str], Any]] = {
    "missing": lambda hub, name: hub.pop(name),
    "cut": lambda hub, name: hub.update({name: hub[name][:-1]}),
    "turned": lambda hub, name: hub.update({name: hub[name].t()}),
    "flat": lambda hub, name: hub.update({name: hub[name].flatten()}),
    "not a number": _not_a_number,
    "infinite": _infinite,
    "whole numbers": lambda hub, name: hub.update({name: hub[name].long()}),
    "complex": lambda hub, name: hub.update({name: hub[name].to(torch.complex64)}),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_tensor_is_named(
    tiny_model: SimpleLLM, damage: Callable[[State, str], Any]
) -> None:
    hub, name = (
        to_hub_state(tiny_model.state_dict(), tiny_model.config),
        FIRST[tiny_model.config.architecture],
    )
    damage(hub, name)
    with pytest.raises(CheckpointError, match=f"'{name}'"):
        from_hub_state(lazy(hub), tiny_model.state_dict(), tiny_model.config)


def test_an_unknown_tensor_is_named(tiny_model: SimpleLLM) -> None:
    hub = to_hub_state(tiny_model.state_dict(), tiny_model.config) | {
        "model.secret": torch.zeros(1)
    }
    with pytest.raises(CheckpointError, match="'model.secret'"):
        from_hub_state(lazy(hub), tiny_model.state_dict(), tiny_model.config)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read(tiny_model: SimpleLLM, dtype: torch.dtype) -> None:
    hub = {
        name: tensor.to(dtype)
        for name, tensor in to_hub_state(tiny_model.state_dict(), tiny_model.config).items()
    }
    again = from_hub_state(lazy(hub), tiny_model.state_dict(), tiny_model.config)
    for name, weight in tiny_model.state_dict().items():
        torch.testing.assert_close(again[name].float(), weight, atol=0.02, rtol=0.02)
