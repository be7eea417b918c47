"""Fixtures of the tests of the server. Without the extra `serve` they are skipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from server.live_server import Live
    from simplellm.inference.sampler import Sampler

for package in ("starlette", "uvicorn"):
    pytest.importorskip(package, reason=f"the extra `serve` is not installed: {package}")


@pytest.fixture(scope="session")
def byte_sampler() -> Sampler:
    """A model with one token for each byte, and a context of 64."""
    from inference.byte_models import BYTES, byte_model

    from simplellm.inference.sampler import Sampler

    return Sampler(byte_model(block_size=64), BYTES)


@pytest.fixture(scope="module")
def live(byte_sampler: Sampler) -> Iterator[Live]:
    """A server of that model."""
    from server.live_server import live_server

    with live_server(byte_sampler) as server:
        yield server


@pytest.fixture(scope="module")
def chat_sampler(tmp_path_factory: pytest.TempPathFactory) -> Sampler:
    """A chat model with random weights."""
    import torch
    from app.chat_model import save_chat_model
    from inference.byte_models import BYTES

    from simplellm.checkpoint.step_folder import open_model
    from simplellm.inference.sampler import Sampler

    folder: Path = save_chat_model(tmp_path_factory.mktemp("chat") / "model", BYTES)
    opened = open_model(folder, torch.device("cpu"))
    stated = opened.generation
    ends, template = stated.end_ids(opened.tokenizer), stated.template(opened.tokenizer)
    return Sampler(opened.model, opened.tokenizer, ends, template)


@pytest.fixture(scope="module")
def chat(chat_sampler: Sampler) -> Iterator[Live]:
    """A server of that chat model."""
    from server.live_server import live_server

    with live_server(chat_sampler) as server:
        yield server
