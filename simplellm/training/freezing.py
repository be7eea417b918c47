"""Freezing: weights that fine-tuning leaves as they are."""

from __future__ import annotations

from simplellm.model.transformer import SimpleLLM


def freeze(model: SimpleLLM, n_blocks: int) -> None:
    """Exclude the embeddings and the first `n_blocks` blocks from training; 0 freezes nothing."""
    if not n_blocks:
        return
    embeddings = (model.token_embedding, model.position_embedding)
    for module in (*embeddings, *model.blocks[:n_blocks]):
        if module is not None:
            module.requires_grad_(False)
