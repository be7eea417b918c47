"""Our weights under the names, shapes and config that `transformers` expects, and back.

Pure functions over dicts: what is read and written, and how, is checkpoint.py's business.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from simplellm.config.model import ModelConfig
from simplellm.errors import CheckpointError, SettingError
from simplellm.model.transformer import NORM_EPSILON, ROPE_BASE

State = dict[str, Tensor]

READ_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
GPT2_NAMES = {  # ours -> theirs, inside a block; their matrices are transposed (Conv1D)
    "attention_norm": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.proj": "attn.c_proj",
    "feed_forward_norm": "ln_2",
    "feed_forward.up": "mlp.c_fc",
    "feed_forward.down": "mlp.c_proj",
}
QWEN3_NAMES = {
    "attention_norm": "input_layernorm",
    "attention.proj": "self_attn.o_proj",
    "attention.q_norm": "self_attn.q_norm",
    "attention.k_norm": "self_attn.k_norm",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.down": "mlp.down_proj",
}
QKV_NAMES = [f"self_attn.{letter}_proj" for letter in "qkv"]
GATE_UP_NAMES = ["mlp.gate_proj", "mlp.up_proj"]


def to_hub_config(config: ModelConfig, end_of_text: int, dtype: str = "float32") -> dict[str, Any]:
    """The content of config.json."""
    shared = {"vocab_size": config.vocab_size, "bos_token_id": end_of_text, "eos_token_id": end_of_text,
              "tie_word_embeddings": config.tie_embeddings, "dtype": dtype, "initializer_range": 0.02}  # fmt: skip
    if config.architecture == "gpt2":
        return shared | {
            "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "activation_function": "gelu_new",
            "n_layer": config.n_layer, "n_head": config.n_head, "n_embd": config.n_embd, "n_inner": config.inner_size,
            "n_positions": config.block_size, "layer_norm_epsilon": NORM_EPSILON["gpt2"],
            "attn_pdrop": 0.0, "embd_pdrop": config.dropout, "resid_pdrop": config.dropout,
        }  # fmt: skip
    return shared | {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu", "attention_bias": False,
        "num_hidden_layers": config.n_layer, "num_attention_heads": config.n_head,
        "num_key_value_heads": config.kv_heads, "head_dim": config.head_size, "hidden_size": config.n_embd,
        "intermediate_size": config.inner_size, "max_position_embeddings": config.block_size,
        "rms_norm_eps": NORM_EPSILON["modern"], "rope_theta": ROPE_BASE,
        "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_BASE}, "attention_dropout": 0.0,
        "use_sliding_window": False,
    }  # fmt: skip


def from_hub_config(data: dict[str, Any], source: str) -> ModelConfig:
    """The inverse of `to_hub_config`; CheckpointError names `source` when it is another kind of model."""
    try:
        if data["model_type"] == "gpt2":
            return ModelConfig(
                architecture="gpt2", n_layer=data["n_layer"], n_head=data["n_head"], n_embd=data["n_embd"],
                n_inner=data["n_inner"], block_size=data["n_positions"], vocab_size=data["vocab_size"],
                dropout=data["resid_pdrop"], tie_embeddings=data["tie_word_embeddings"],
            )  # fmt: skip
        if data["model_type"] == "qwen3":
            return ModelConfig(
                architecture="modern", n_layer=data["num_hidden_layers"], n_head=data["num_attention_heads"],
                n_kv_head=data["num_key_value_heads"], n_embd=data["hidden_size"], n_inner=data["intermediate_size"],
                block_size=data["max_position_embeddings"], vocab_size=data["vocab_size"],
                tie_embeddings=data["tie_word_embeddings"],
            )  # fmt: skip
    except (KeyError, TypeError, SettingError) as error:
        raise CheckpointError(
            f"{source} does not describe a model of this project: {error}"
        ) from error
    raise CheckpointError(
        f"{source} is of type {str(data['model_type'])[:50]!r}, not qwen3 or gpt2"
    )


def to_hub_state(state: State, config: ModelConfig) -> State:
    """Our state dict with the names and shapes of Qwen3ForCausalLM or GPT2LMHeadModel."""
    hub: State = {}
    for name, tensor in state.items():
        for hub_name, part in zip(*_places(name, tensor, config), strict=True):
            hub[hub_name] = part.contiguous()
    return hub


def from_hub_state(hub: State, template: State, config: ModelConfig) -> State:
    """The inverse of `to_hub_state`; `template` is our state dict, whose names and shapes are expected.

    Raises CheckpointError that names the first tensor which is missing, unknown, of another shape, or not finite.
    """
    state, unread = {}, set(hub)
    for name, like in template.items():
        hub_names, hub_parts = _places(name, like, config)
        parts = [
            _checked(hub, hub_name, part)
            for hub_name, part in zip(hub_names, hub_parts, strict=True)
        ]
        unread.difference_update(hub_names)
        state[name] = parts[0].t() if _is_transposed(name, like, config) else torch.cat(parts)
    if unread:
        raise CheckpointError(f"the weights hold {min(unread)!r}, which this model has not")
    return state


def _checked(hub: State, name: str, like: Tensor) -> Tensor:
    if name not in hub:
        raise CheckpointError(f"the weights lack {name!r}")
    if hub[name].shape != like.shape:
        raise CheckpointError(
            f"{name!r} is {list(hub[name].shape)}, the model expects {list(like.shape)}"
        )
    if hub[name].dtype not in READ_DTYPES:
        raise CheckpointError(
            f"{name!r} is of type {hub[name].dtype}, which this program does not read"
        )
    if not bool(torch.isfinite(hub[name]).all()):
        raise CheckpointError(f"{name!r} holds values that are not finite numbers")
    return hub[name]


def _places(name: str, tensor: Tensor, config: ModelConfig) -> tuple[list[str], list[Tensor]]:
    """Where one of our tensors stands in the hub's state dict: names, and the part of the tensor for each."""
    if name == "head.weight":
        return ["lm_head.weight"], [tensor]
    if config.architecture == "gpt2":
        return [f"transformer.{_gpt2_name(name)}"], [
            tensor.t() if _is_transposed(name, tensor, config) else tensor
        ]
    if not name.startswith("blocks."):
        return [
            {
                "token_embedding.weight": "model.embed_tokens.weight",
                "final_norm.weight": "model.norm.weight",
            }[name]
        ], [tensor]
    _, layer, part = name.split(".", 2)
    module, kind = part.rsplit(".", 1)
    prefix = f"model.layers.{layer}."
    if module == "attention.qkv":
        rows = [
            heads * config.head_size for heads in (config.n_head, config.kv_heads, config.kv_heads)
        ]
        return [f"{prefix}{theirs}.{kind}" for theirs in QKV_NAMES], list(tensor.split(rows))
    if module == "feed_forward.up":
        return [f"{prefix}{theirs}.{kind}" for theirs in GATE_UP_NAMES], list(tensor.chunk(2))
    return [f"{prefix}{QWEN3_NAMES[module]}.{kind}"], [tensor]


def _gpt2_name(name: str) -> str:
    if not name.startswith("blocks."):
        module, kind = name.rsplit(".", 1)
        return {"token_embedding": "wte", "position_embedding": "wpe", "final_norm": "ln_f"}[
            module
        ] + f".{kind}"
    _, layer, part = name.split(".", 2)
    module, kind = part.rsplit(".", 1)
    return f"h.{layer}.{GPT2_NAMES[module]}.{kind}"


def _is_transposed(name: str, tensor: Tensor, config: ModelConfig) -> bool:
    return config.architecture == "gpt2" and name.startswith("blocks.") and tensor.dim() == 2
