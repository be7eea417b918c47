"""What the tests of this folder share: a text beside a checkpoints folder, and counts that are told at the end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from faults.tiny import digest, text_in, train


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
    return digest(Path(train(folder / "checkpoints").path).parent / "step-000012")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The disk of layer.py asks the system which file is behind a number: only Linux tells."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and not os.path.isdir("/proc/self/fd"):
            item.add_marker(pytest.mark.skip(reason="needs /proc/self/fd"))
