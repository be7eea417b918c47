"""A chat model with random weights for tests, and replies that a test chooses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from simplellm.checkpoint.export.export import ExportJob
from simplellm.checkpoint.export.exported_model import ExportedModel, source_of
from simplellm.checkpoint.generation import Generation
from simplellm.config.model import ModelConfig
from simplellm.data.chat_template import CHATML, CHATML_TOKENS, IM_START
from simplellm.data.tokenizer import Tokenizer
from simplellm.inference.sampler import Sampler
from simplellm.model.transformer import SimpleLLM

Said = Callable[[str], str]  # from the last message of the user to the reply


def save_chat_model(
    folder: Path, tokenizer: Tokenizer, template: str = CHATML, block_size: int = 256
) -> Path:
    """Write a model folder with special tokens of ChatML and a template."""
    tokenizer = tokenizer.with_special_tokens(CHATML_TOKENS)
    config = ModelConfig(
        architecture="llama", n_layer=2, n_head=2, n_embd=32, n_inner=48, block_size=block_size,
        vocab_size=tokenizer.vocab_size, tie_embeddings=True,
    )  # fmt: skip
    network = SimpleLLM(config).init_weights(torch.Generator().manual_seed(1))
    end = tokenizer.special_tokens["<|im_end|>"]
    generation = Generation((end, tokenizer.end_of_text), chat_template=template)
    model = ExportedModel("chat", source_of(network, tokenizer, "chat", generation))
    ExportJob.of("hf", "f32", folder).write(model)
    return folder


def says(sampler: Sampler, said: Said) -> None:
    """Let a model reply `said(message)` and end its turn."""
    tokenizer = sampler.tokenizer
    start, end = (tokenizer.special_tokens[text] for text in CHATML_TOKENS)

    def next_logits(ids: Sequence[int]) -> np.ndarray:
        ids = list(ids)
        opening = tokenizer.encode_template(f"{IM_START}assistant\n")
        places = [n for n in range(len(ids)) if ids[n : n + len(opening)] == opening]
        begin = places[-1]
        user = max(n for n in range(begin) if ids[n] == start)
        message = tokenizer.decode(ids[user + 1 : ids.index(end, user)]).partition("\n")[2]
        reply = [*tokenizer.encode(said(message)), end]
        n_said = len(ids) - begin - len(opening)
        logits = np.full(tokenizer.vocab_size, -10.0, np.float32)
        logits[reply[min(n_said, len(reply) - 1)]] = 30.0
        return logits

    sampler.next_logits = next_logits  # type: ignore[method-assign]
