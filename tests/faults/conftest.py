"""Fixtures of the fault tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from faults.tiny import digest, train, write_text


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """The path of a checkpoints folder that does not exist yet, beside `text.txt`."""
    write_text(tmp_path)
    return tmp_path / "checkpoints"


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of a training without any fault."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_text(folder)
    return digest(Path(train(folder / "checkpoints").path).parent / "step-000012")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the folder where /proc/self/fd is missing: layer.Disk needs the path of a handle."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and not os.path.isdir("/proc/self/fd"):
            item.add_marker(pytest.mark.skip(reason="needs /proc/self/fd"))
