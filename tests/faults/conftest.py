"""What the tests of this folder share: a text beside a checkpoints folder, and counts that are told at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from faults.tiny import digest, text_in, train


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models are faster on one core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def same_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's speed, which decides the recipe, is measured nowhere."""
    monkeypatch.setattr("simplellm.training.job.relative_speed", lambda device: 1.0)


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """An empty folder of runs, beside `text.txt`."""
    text_in(tmp_path)
    return tmp_path / "checkpoints"


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    text_in(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("simplellm.training.job.relative_speed", lambda device: 1.0)
        return digest(Path(train(folder / "checkpoints").path).parent / "step-000012")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The disk of layer.py asks the system which file is behind a number: only Linux tells."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and not os.path.isdir("/proc/self/fd"):
            item.add_marker(pytest.mark.skip(reason="needs /proc/self/fd"))
