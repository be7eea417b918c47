"""A small model of each architecture with random weights, also of norms and biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from simplellm.checkpoint.export.exported_model import ExportedModel, source_of
from simplellm.config.model import ModelConfig
from simplellm.data.tokenizer import Tokenizer
from simplellm.model.transformer import SimpleLLM

SHAPE = {"n_layer": 2, "n_head": 4, "n_embd": 48, "n_inner": 80, "block_size": 64}
LLAMA3_ROPE = {
    "rope_base": 500_000.0,
    "rope_factor": 8.0,
    "rope_low": 1.0,
    "rope_high": 4.0,
    "rope_original_context": 32,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "modern": {"n_kv_head": 2},
    "gpt2": {"architecture": "gpt2", "norm_eps": 1e-3, "tie_embeddings": False},
    "gpt2-cut": {"architecture": "gpt2", "block_size": 32, "max_positions": 64},
    "llama": {"architecture": "llama", "n_kv_head": 2, "norm_eps": 1e-5, "tie_embeddings": True},
    "llama-rope": {"architecture": "llama", "tie_embeddings": False, **LLAMA3_ROPE},
    "llama-biases": {
        "architecture": "llama",
        "n_kv_head": 1,
        "attention_bias": True,
        "mlp_bias": True,
        "head_dim": 20,
    },
    "mistral": {"architecture": "mistral", "n_kv_head": 2, "head_dim": 16},
    "qwen2": {"architecture": "qwen2", "n_kv_head": 2, "rope_base": 1e6},
    "qwen3": {"architecture": "qwen3", "n_kv_head": 2, "head_dim": 24, "norm_eps": 1e-3},
}


def random_network(facts: Mapping[str, Any], vocab_size: int) -> SimpleLLM:
    """A network of SHAPE, but for `facts`; its logits have a standard deviation of about 1."""
    config = ModelConfig(**{**SHAPE, "vocab_size": vocab_size, **facts})
    network = SimpleLLM(config).init_weights(torch.Generator().manual_seed(1)).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight_name, weight in network.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            is_norm = weight_name.endswith("norm.weight")
            weight.copy_(1 + 0.3 * noise if is_norm else 0.15 * noise)
    return network


def exported(name: str, network: SimpleLLM, tokenizer: Tokenizer) -> ExportedModel:
    return ExportedModel(name, source_of(network, tokenizer, name))
