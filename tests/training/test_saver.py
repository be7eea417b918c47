"""What run.json says is what holds, also where it cannot be written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from simplellm.checkpoint.run import RunFolder
from simplellm.training.distributed import World
from simplellm.training.saver import Saver


@pytest.fixture
def saver(tmp_path: Path) -> Saver:
    run = RunFolder(tmp_path / "run")
    run.write_info({"planned": 9, "text": "kept"})
    saver = Saver(run, World(), torch.device("cpu"))
    saver.remember_info()
    return saver


def test_amended_keys_of_run_json_leave_the_others(saver):
    assert saver.amend_info(planned=6)
    info = saver.run.read_info()
    assert (info["planned"], info["text"]) == (6, "kept")


def test_an_amendment_that_cannot_be_written_has_no_effect(saver, monkeypatch):
    def refuse(self: RunFolder, info: dict[str, Any]) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(RunFolder, "write_info", refuse)
        assert not saver.amend_info(planned=6)
    assert saver.run.read_info()["planned"] == 9
    assert saver.amend_info(other=1) and saver.run.read_info()["planned"] == 9


def test_a_run_without_run_json_is_not_amended(tmp_path):
    saver = Saver(RunFolder(tmp_path / "run"), World(), torch.device("cpu"))
    assert not saver.amend_info(planned=6) and not (tmp_path / "run").exists()
