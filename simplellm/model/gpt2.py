"""The architecture `gpt2`: LayerNorm, learned positions, GELU, biases.

Radford et al. 2019, "Language models are unsupervised multitask learners"; on disk it is a GPT-2.
"""

from __future__ import annotations

import math

from torch import nn

from simplellm.config.model import ModelConfig
from simplellm.model.architecture import Architecture, HubConfig, HubNames
from simplellm.model.attention import MultiHeadAttention
from simplellm.model.block import TransformerBlock
from simplellm.model.feed_forward import MLP

NORM_EPS = 1e-5  # GPT-2
STD = 0.02  # GPT-2 paper


class GPT2(Architecture):
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
        has_transposed_matrices=True,  # Conv1D
    )

    def build_block(self, config: ModelConfig, layer: int) -> TransformerBlock:
        return TransformerBlock(
            attention_norm=self.build_norm(config),
            attention=MultiHeadAttention(config, layer, bias=True),
            feed_forward_norm=self.build_norm(config),
            feed_forward=MLP(config, bias=True),
            dropout=config.dropout,
        )

    def build_norm(self, config: ModelConfig) -> nn.LayerNorm:
        return nn.LayerNorm(config.n_embd, NORM_EPS)

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
            "n_positions": config.block_size,
            "n_ctx": config.block_size,  # the same, as converters to other formats read it
            "layer_norm_epsilon": NORM_EPS,
            "attn_pdrop": 0.0,
            "embd_pdrop": config.dropout,
            "resid_pdrop": config.dropout,
        }

    def from_hub_config(self, data: HubConfig) -> ModelConfig:
        return ModelConfig(
            architecture="gpt2",
            n_layer=data["n_layer"],
            n_head=data["n_head"],
            n_embd=data["n_embd"],
            n_inner=data["n_inner"],
            block_size=data["n_positions"],
            vocab_size=data["vocab_size"],
            dropout=data["resid_pdrop"],
            tie_embeddings=data["tie_word_embeddings"],
        )
