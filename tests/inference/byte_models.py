"""Tiny models with one token per byte, and settings, that the tests of inference share."""

from __future__ import annotations

from dataclasses import replace

import torch

from simplellm.config.model import ModelConfig
from simplellm.config.sampling import SamplingParams
from simplellm.data.tokenizer import Tokenizer
from simplellm.model.transformer import SimpleLLM

BYTES = Tokenizer({bytes([i]): i for i in range(256)})
PLAIN = SamplingParams(temperature=1, top_k=0, top_p=1, min_p=0, repetition_penalty=1)
GREEDY = replace(PLAIN, temperature=0)


def byte_model(
    architecture: str = "modern",
    block_size: int = 32,
    seed: int = 1,
    scale: float = 0.15,
    n_head: int = 2,
    n_kv_head: int | None = None,
) -> SimpleLLM:
    """Random weights that are large enough to give distinct probabilities."""
    config = ModelConfig(
        architecture=architecture,
        n_layer=2,
        n_head=n_head,
        n_kv_head=n_kv_head,
        n_embd=32,
        block_size=block_size,
        vocab_size=257,
    )
    model, generator = SimpleLLM(config).eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0.0 if weight.dim() == 2 else 1.0, scale, generator=generator)
    return model


def grouped_byte_model(
    architecture: str, block_size: int = 64, seed: int = 1, scale: float = 0.15
) -> SimpleLLM:
    """A byte model with grouped-query attention, if the architecture has it."""
    n_kv_head = 2 if architecture == "modern" else None
    return byte_model(architecture, block_size, seed, scale, n_head=4, n_kv_head=n_kv_head)


def uncached_logits(model: SimpleLLM, ids: list[int]) -> torch.Tensor:
    """Logits (V,) without a cache; a full context drops its older half, again and again."""
    context: list[int] = []
    for token in ids:
        if len(context) == model.config.block_size:
            context = context[-(model.config.block_size // 2) :]
        context.append(token)
    with torch.no_grad():
        return model(torch.tensor([context]))[0, -1]
