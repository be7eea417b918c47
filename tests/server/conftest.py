"""Fixtures of the tests of the server. Without the extra `serve` they are skipped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from server.live_server import Live
    from simplellm.inference.sampler import Sampler


@pytest.fixture(scope="session")
def byte_sampler() -> Sampler:
    from server import tiny_models

    return tiny_models.byte_sampler()


@pytest.fixture(scope="module")
def live(byte_sampler: Sampler) -> Iterator[Live]:
    """A server of a model that continues text."""
    from server.live_server import live_server

    with live_server(byte_sampler) as server:
        yield server


@pytest.fixture(scope="session")
def chat_sampler(tmp_path_factory: pytest.TempPathFactory) -> Sampler:
    from server import tiny_models

    return tiny_models.chat_sampler(tmp_path_factory.mktemp("chat") / "model")


@pytest.fixture(scope="module")
def chat(chat_sampler: Sampler) -> Iterator[Live]:
    """A server of a chat model."""
    from server.live_server import live_server

    with live_server(chat_sampler) as server:
        yield server
