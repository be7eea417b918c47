"""A small model of each architecture that knows a text by heart, so that its choices are clear.

Random weights are no test of fewer bits, because many of their choices are near ties. Measured with
q8_0, at widths of 64 and 256: 9 to 37 of 64 replies of 16 tokens are equal, and the logits of the
two tokens that differ first are mostly 0.001 to 0.2 apart, where all logits have a standard
deviation of 1.2 to 2.7. Our own model with the rounded weights differs as often.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from simplellm.config.model import ModelConfig
from simplellm.model.transformer import SimpleLLM

SHAPE = {"n_layer": 2, "n_head": 4, "n_embd": 96, "n_inner": 192, "block_size": 96}
N_STEPS, BATCH, LENGTH = 250, 16, 48
LEARNING_RATE = 6e-3


def learned_network(facts: Mapping[str, Any], ids: Sequence[int], vocab_size: int) -> SimpleLLM:
    """A network of SHAPE, but for `facts`, trained on `ids` until it continues them."""
    config = ModelConfig(**{**SHAPE, "dropout": 0.0, **facts, "vocab_size": vocab_size})
    generator = torch.Generator().manual_seed(1)
    network = SimpleLLM(config).init_weights(generator)
    text = torch.tensor(ids)
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, N_STEPS)
    length = min(LENGTH, config.block_size)
    for _ in range(N_STEPS):
        starts = torch.randint(len(text) - length, (BATCH,), generator=generator)
        windows = torch.stack([text[start : start + length + 1] for start in starts])
        loss = network.loss(windows[:, :-1], windows[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return network.eval()
