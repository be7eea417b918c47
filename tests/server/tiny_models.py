"""Tiny models that the tests of the server answer with."""

from __future__ import annotations

from pathlib import Path

import torch
from app.chat_model import save_chat_model
from inference.byte_models import BYTES, byte_model

from simplellm.checkpoint.step_folder import open_model
from simplellm.inference.sampler import Sampler


def byte_sampler() -> Sampler:
    """A model with one token for each byte, and a context of 64."""
    return Sampler(byte_model(block_size=64), BYTES)


def chat_sampler(folder: Path) -> Sampler:
    """A chat model with random weights, a token for each byte, and a context of 256."""
    opened = open_model(save_chat_model(folder, BYTES), torch.device("cpu"))
    stated = opened.generation
    ends, template = stated.end_ids(opened.tokenizer), stated.template(opened.tokenizer)
    return Sampler(opened.model, opened.tokenizer, ends, template)
