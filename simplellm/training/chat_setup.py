"""What a training on conversations adds to a model: its chat template and special tokens.

A model that has a template keeps it. Others get ChatML, and the tokens of ChatML that they lack.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from simplellm.checkpoint.generation import NOTHING_STATED, Generation
from simplellm.data.chat_template import CHATML, CHATML_TOKENS, IM_END, ChatTemplate
from simplellm.data.tokenizer import Tokenizer
from simplellm.model.transformer import SimpleLLM

TABLES = ("token_embedding.weight", "head.weight")


def template_for(
    generation: Generation, tokenizer: Tokenizer | None
) -> tuple[ChatTemplate, tuple[str, ...]]:
    """The template of a training, and the special tokens that the tokenizer needs for it."""
    template = generation.template(tokenizer) if tokenizer else None
    if template is not None and template.source != CHATML:
        return template, ()
    return ChatTemplate(), CHATML_TOKENS


def chat_generation(generation: Generation, tokenizer: Tokenizer) -> Generation:
    """`generation` with a template; with ChatML, its end of a turn is the first end of a reply."""
    if generation.chat_template is not None:
        return generation
    end = tokenizer.special_tokens[IM_END]
    ends = generation.eos_ids or (() if generation == NOTHING_STATED else (tokenizer.end_of_text,))
    return replace(generation, eos_ids=(end, *ends), chat_template=CHATML)


def unlearned_tokens(generation: Generation, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens of ChatML, for a model without a template: it has never seen them in use."""
    if generation.chat_template is not None:
        return ()
    return tuple(tokenizer.special_tokens[token] for token in CHATML_TOKENS)


def grown_weights(model: SimpleLLM, known: int, n_tokens: int) -> dict[str, Tensor]:
    """The weights of `model` by name, where the tokenizer grew from `known` to `n_tokens` tokens.

    The rows of new tokens are the mean of the others, in place of rows without a token, and where
    these do not suffice behind them.
    """
    weights = dict(model.state_dict())
    for name in TABLES:
        if name in weights and n_tokens > known:
            rows = weights[name][:known]
            new = rows.mean(0, keepdim=True).expand(n_tokens - known, -1)
            weights[name] = torch.cat([rows, new, weights[name][n_tokens:]])
    return weights
