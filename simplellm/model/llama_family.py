"""What the architectures of the Llama family share: RMSNorm, rotary positions, SwiGLU.

Touvron et al. 2023, "LLaMA: open and efficient foundation language models". They differ in QK-norm
and biases, which are class attributes here, and in what the config states.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from simplellm.config.model import DEFAULT_CONTEXT, ModelConfig
from simplellm.model.architecture import Architecture, HubConfig, HubNames, refuse
from simplellm.model.attention import MultiHeadAttention
from simplellm.model.block import TransformerBlock
from simplellm.model.feed_forward import GatedMLP
from simplellm.model.layers import RMSNorm
from simplellm.model.rope import ROPE_BASE

NORM_EPS = 1e-6  # default of all of them in `transformers`
STD = 0.02  # default of all of them in `transformers`


class LlamaFamily(Architecture):
    """A decoder-only transformer like Llama."""

    hub_class: ClassVar[str]
    has_qk_norm: ClassVar[bool] = False
    has_qkv_bias: ClassVar[bool] = False  # also without attention_bias
    hub_names = HubNames(
        modules={
            "token_embedding": "model.embed_tokens",
            "final_norm": "model.norm",
            "head": "lm_head",
        },
        block_modules={
            "attention_norm": ("input_layernorm",),
            "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "attention.proj": ("self_attn.o_proj",),
            "attention.q_norm": ("self_attn.q_norm",),
            "attention.k_norm": ("self_attn.k_norm",),
            "feed_forward_norm": ("post_attention_layernorm",),
            "feed_forward.up": ("mlp.gate_proj", "mlp.up_proj"),
            "feed_forward.down": ("mlp.down_proj",),
        },
        block_prefix="model.layers.",
        base_prefix="model.",
        buffers=(".rotary_emb.inv_freq",),
    )

    def build_block(self, config: ModelConfig, layer: int) -> TransformerBlock:
        attention = MultiHeadAttention(
            config,
            layer,
            qkv_bias=self.has_qkv_bias or config.attention_bias,
            proj_bias=config.attention_bias,
            qk_norm_eps=norm_eps(config) if self.has_qk_norm else None,
        )
        return TransformerBlock(
            attention_norm=self.build_norm(config),
            attention=attention,
            feed_forward_norm=self.build_norm(config),
            feed_forward=GatedMLP(config, bias=config.mlp_bias),
            dropout=config.dropout,
        )

    def build_norm(self, config: ModelConfig) -> RMSNorm:
        return RMSNorm(config.n_embd, norm_eps(config))

    def initial_std(self, config: ModelConfig, name: str) -> float:
        return STD

    # ---------------------------------------------------------------- config.json

    def to_hub_config(self, config: ModelConfig) -> HubConfig:
        return {
            "architectures": [self.hub_class],
            "model_type": self.model_type,
            "hidden_act": "silu",
            "attention_bias": config.attention_bias,
            "num_hidden_layers": config.n_layer,
            "num_attention_heads": config.n_head,
            "num_key_value_heads": config.kv_heads,
            "head_dim": config.head_size,
            "hidden_size": config.n_embd,
            "intermediate_size": config.inner_size,
            "max_position_embeddings": config.positions,
            "rms_norm_eps": norm_eps(config),
            "rope_theta": config.rope_base,
            **_to_hub_rope(config),
            "attention_dropout": 0.0,
            **self.own_hub_entries(config),
        }

    def own_hub_entries(self, config: ModelConfig) -> HubConfig:
        """Entries of config.json that the other architectures of the family do not have."""
        return {}

    def from_hub_config(self, data: HubConfig, context: int | None = None) -> ModelConfig:
        self.refuse_options(data)
        positions = data["max_position_embeddings"]
        block_size = min(positions, context or self.default_context(positions))
        n_embd, n_head = data["hidden_size"], data["num_attention_heads"]
        head_dim = data.get("head_dim")
        has_usual_heads = head_dim is None or head_dim * n_head == n_embd
        return ModelConfig(
            architecture=self.name,
            n_layer=data["num_hidden_layers"],
            n_head=n_head,
            n_kv_head=data.get("num_key_value_heads") or n_head,
            n_embd=n_embd,
            n_inner=data["intermediate_size"],
            block_size=block_size,
            vocab_size=data["vocab_size"],
            tie_embeddings=data.get("tie_word_embeddings", False),
            head_dim=None if has_usual_heads else head_dim,
            max_positions=positions if positions > block_size else None,
            norm_eps=_unless(NORM_EPS, data.get("rms_norm_eps", NORM_EPS)),
            **_from_hub_rope(data),
            **self.facts_of(data),
        )

    def default_context(self, positions: int) -> int:
        """Tokens of context where the user names no other number."""
        return DEFAULT_CONTEXT

    def facts_of(self, data: HubConfig) -> dict[str, Any]:
        """The facts in entries that the other architectures of the family do not have."""
        return {}

    def refuse_options(self, data: HubConfig) -> None:
        """CheckpointError that names an option of config.json that is not supported."""
        activation = data.get("hidden_act", "silu")
        if activation not in ("silu", "swish"):
            refuse(f"the activation {str(activation)[:50]!r}", "silu")
        if any(kind != "full_attention" for kind in data.get("layer_types") or ()):
            refuse("attention with a sliding window (layer_types)", "full_attention")
        if data.get("use_sliding_window"):
            refuse("attention with a sliding window (use_sliding_window)", "full attention")


def full_attention(config: ModelConfig) -> HubConfig:
    """The entries of the Qwen architectures that say that no layer has a sliding window."""
    return {"use_sliding_window": False, "layer_types": ["full_attention"] * config.n_layer}


def norm_eps(config: ModelConfig) -> float:
    return NORM_EPS if config.norm_eps is None else config.norm_eps


def _unless(default: float, value: Any) -> Any:
    """None where a fact has its default, so that it is not stated."""
    return None if value == default else value


def _to_hub_rope(config: ModelConfig) -> HubConfig:
    """The entries for readers of both spellings: `transformers` before version 5, and from 5 on."""
    if config.rope_factor == 1:
        return {"rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base}}
    scaling = {
        "rope_type": "llama3",
        "factor": config.rope_factor,
        "low_freq_factor": config.rope_low,
        "high_freq_factor": config.rope_high,
        "original_max_position_embeddings": config.rope_original_context,
    }
    parameters = {**scaling, "rope_theta": config.rope_base}
    return {"rope_parameters": parameters, "rope_scaling": scaling}


def _from_hub_rope(data: HubConfig) -> dict[str, Any]:
    """The facts about rotary positions; `rope_scaling` counts first, as in `transformers`."""
    parameters = data.get("rope_scaling") or data.get("rope_parameters") or {}
    if not isinstance(parameters, Mapping):
        raise TypeError("the parameters of rotary positions are not an object")
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    parts = parameters.get("partial_rotary_factor") or data.get("partial_rotary_factor") or 1
    if kind not in ("default", "llama3"):
        refuse(f"the RoPE type {str(kind)[:50]!r}", "default, llama3")
    if parts != 1:
        refuse(f"a partial_rotary_factor of {str(parts)[:50]}", "1")
    if any(isinstance(value, Mapping) for value in parameters.values()):
        refuse("RoPE that differs between layers", "the same in all layers")
    facts = {"rope_base": parameters.get("rope_theta") or data.get("rope_theta") or ROPE_BASE}
    if kind == "default":
        return facts
    own = parameters.get("original_max_position_embeddings")
    original = data.get("original_max_position_embeddings") or own
    return facts | {
        "rope_factor": parameters["factor"],
        "rope_low": parameters["low_freq_factor"],
        "rope_high": parameters["high_freq_factor"],
        "rope_original_context": original or data["max_position_embeddings"],
    }
