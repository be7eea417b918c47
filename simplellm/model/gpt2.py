"""The architecture `gpt2`: LayerNorm, learned positions, GELU, biases.

Radford et al. 2019, "Language models are unsupervised multitask learners"; on disk it is a GPT-2.
"""

from __future__ import annotations

import math

from torch import nn

from simplellm.config.model import ModelConfig
from simplellm.model.architecture import Architecture, HubConfig, HubNames, refuse
from simplellm.model.attention import MultiHeadAttention
from simplellm.model.block import TransformerBlock
from simplellm.model.feed_forward import MLP

NORM_EPS = 1e-5  # GPT-2
STD = 0.02  # GPT-2 paper
DROPOUT = 0.1  # default of `transformers`
SUPPORTED_OPTIONS = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


class GPT2(Architecture):
    name = "gpt2"
    model_type = "gpt2"
    hub_names = HubNames(
        modules={
            "token_embedding": "transformer.wte",
            "position_embedding": "transformer.wpe",
            "final_norm": "transformer.ln_f",
            "head": "lm_head",
        },
        block_modules={
            "attention_norm": ("ln_1",),
            "attention.qkv": ("attn.c_attn",),
            "attention.proj": ("attn.c_proj",),
            "feed_forward_norm": ("ln_2",),
            "feed_forward.up": ("mlp.c_fc",),
            "feed_forward.down": ("mlp.c_proj",),
        },
        block_prefix="transformer.h.",
        base_prefix="transformer.",
        buffers=(".attn.bias", ".attn.masked_bias"),
        has_transposed_matrices=True,  # Conv1D
    )

    def build_block(self, config: ModelConfig, layer: int) -> TransformerBlock:
        return TransformerBlock(
            attention_norm=self.build_norm(config),
            attention=MultiHeadAttention(config, layer, qkv_bias=True, proj_bias=True),
            feed_forward_norm=self.build_norm(config),
            feed_forward=MLP(config, bias=True),
            dropout=config.dropout,
        )

    def build_norm(self, config: ModelConfig) -> nn.LayerNorm:
        return nn.LayerNorm(config.n_embd, norm_eps(config))

    def initial_std(self, config: ModelConfig, name: str) -> float:
        if name.endswith(("attention.proj.weight", "feed_forward.down.weight")):
            return STD / math.sqrt(2 * config.n_layer)  # two residual adds per block: paper, 2.3
        return STD

    def to_hub_config(self, config: ModelConfig) -> HubConfig:
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": self.model_type,
            "activation_function": "gelu_new",
            "n_layer": config.n_layer,
            "n_head": config.n_head,
            "n_embd": config.n_embd,
            "n_inner": config.inner_size,
            "n_positions": config.positions,
            "n_ctx": config.positions,  # the same, as converters to other formats read it
            "layer_norm_epsilon": norm_eps(config),
            "attn_pdrop": 0.0,
            "embd_pdrop": config.dropout,
            "resid_pdrop": config.dropout,
        }

    def from_hub_config(self, data: HubConfig, context: int | None = None) -> ModelConfig:
        _refuse_options(data)
        positions = data["n_positions"]
        block_size = min(positions, context or positions)
        eps = data.get("layer_norm_epsilon", NORM_EPS)
        return ModelConfig(
            architecture="gpt2",
            n_layer=data["n_layer"],
            n_head=data["n_head"],
            n_embd=data["n_embd"],
            n_inner=data.get("n_inner"),
            block_size=block_size,
            vocab_size=data["vocab_size"],
            dropout=data.get("resid_pdrop", DROPOUT),
            tie_embeddings=data.get("tie_word_embeddings", True),
            max_positions=positions if positions > block_size else None,
            norm_eps=None if eps == NORM_EPS else eps,
        )


def norm_eps(config: ModelConfig) -> float:
    return NORM_EPS if config.norm_eps is None else config.norm_eps


def _refuse_options(data: HubConfig) -> None:
    """CheckpointError that names an option of config.json that is not supported."""
    activation = data.get("activation_function", "gelu_new")
    if activation not in ("gelu_new", "gelu_pytorch_tanh"):  # two names of the same function
        refuse(f"the activation {str(activation)[:50]!r}", "gelu_new")
    for option, supported in SUPPORTED_OPTIONS.items():
        if data.get(option, supported) != supported:
            refuse(f"{option} {data[option]!r}"[:100], f"{supported}")
