"""The architecture `modern`: RMSNorm, rotary positions, QK-norm, SwiGLU, no biases.

On disk it is a Qwen3 (Yang et al. 2025, "Qwen3 technical report").
"""

from __future__ import annotations

from simplellm.config.model import ModelConfig
from simplellm.model.architecture import Architecture, HubConfig, HubNames
from simplellm.model.attention import MultiHeadAttention
from simplellm.model.block import TransformerBlock, residual_stream_std
from simplellm.model.feed_forward import GatedMLP
from simplellm.model.layers import RMSNorm
from simplellm.model.rope import ROPE_BASE

NORM_EPS = 1e-6  # Qwen3
HEAD_STD = 0.02  # of a separate output table, as in GPT-2


class Modern(Architecture):
    model_type = "qwen3"
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
    )

    def build_block(self, config: ModelConfig, layer: int) -> TransformerBlock:
        return TransformerBlock(
            attention_norm=self.build_norm(config),
            attention=MultiHeadAttention(config, layer, bias=False, qk_norm_eps=NORM_EPS),
            feed_forward_norm=self.build_norm(config),
            feed_forward=GatedMLP(config, bias=False),
            dropout=config.dropout,
        )

    def build_norm(self, config: ModelConfig) -> RMSNorm:
        return RMSNorm(config.n_embd, NORM_EPS)

    def initial_std(self, config: ModelConfig, name: str) -> float:
        """Matrices keep the scale of their input, and each block starts as the identity."""
        if name == "token_embedding.weight":
            return residual_stream_std(config)
        if name == "head.weight":
            return HEAD_STD
        if name.endswith(("attention.proj.weight", "feed_forward.down.weight")):
            return 0.0  # adds nothing to the residual stream
        return config.n_embd**-0.5

    def to_hub_config(self, config: ModelConfig) -> HubConfig:
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": self.model_type,
            "hidden_act": "silu",
            "attention_bias": False,
            "num_hidden_layers": config.n_layer,
            "num_attention_heads": config.n_head,
            "num_key_value_heads": config.kv_heads,
            "head_dim": config.head_size,
            "hidden_size": config.n_embd,
            "intermediate_size": config.inner_size,
            "max_position_embeddings": config.block_size,
            "rms_norm_eps": NORM_EPS,
            "rope_theta": ROPE_BASE,
            "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_BASE},
            "attention_dropout": 0.0,
            "use_sliding_window": False,
        }

    def from_hub_config(self, data: HubConfig) -> ModelConfig:
        return ModelConfig(
            architecture="modern",
            n_layer=data["num_hidden_layers"],
            n_head=data["num_attention_heads"],
            n_kv_head=data["num_key_value_heads"],
            n_embd=data["hidden_size"],
            n_inner=data["intermediate_size"],
            block_size=data["max_position_embeddings"],
            vocab_size=data["vocab_size"],
            tie_embeddings=data["tie_word_embeddings"],
        )
