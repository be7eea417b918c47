"""Models that the tests of this folder share. All of them are marked `interop`."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import STORY, built_once

from simplellm.app.cli import main

RUNS = {"modern": ["--n-kv-head", "2"], "gpt2": ["--architecture", "gpt2"]}
LEARNED_CHARACTERS = 3000  # of the story
FLAGS = [
    "--n-layer", "2", "--n-head", "4", "--n-embd", "96", "--block-size", "96",
    "--vocab-size", "512", "--batch-size", "16", "--device", "cpu", "--precision", "float32",
    "--max-steps", "150", "--eval-interval", "150", "--dropout", "0", "--r-drop", "0",
    "--bpe-dropout", "0", "--renaming", "0", "--token-noise", "0",
]  # fmt: skip


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Do not import the packages of tests that are not selected."""
    return True if "not interop" in config.option.markexpr else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.interop)


@pytest.fixture(scope="session")
def runs(request: pytest.FixtureRequest, fixed_speed: None, no_wait_for_the_disk: None) -> Path:
    """A folder with one run of each architecture, trained until it knows its text by heart.

    Then the most likely token is clear, also with the rounding of another program.
    """

    def train(folder: Path) -> None:
        text = folder / "text.txt"
        text.write_text(STORY.read_text(encoding="utf-8")[:LEARNED_CHARACTERS] * 10)
        for name, flags in RUNS.items():
            arguments = ["--checkpoints", str(folder), "--name", name, *FLAGS, *flags]
            assert main(["train", str(text), *arguments]) == 0

    return built_once(request, "interop", train)


@pytest.fixture(params=RUNS)
def run(request: pytest.FixtureRequest) -> str:
    """The name of each run."""
    return str(request.param)
