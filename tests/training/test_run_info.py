"""run.json: read as typed values by current names, and written with all it had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from simplellm.checkpoint.run import RunFolder
from simplellm.config.model import ModelConfig
from simplellm.config.training import TrainConfig
from simplellm.errors import CheckpointError
from simplellm.training.run_info import RunInfo

CONTENT: dict[str, Any] = {
    "version": 1,
    "texts": ["a.txt"],
    "val_data": None,
    "encoding": "utf-8",
    "fingerprint": {"a.txt": "12ab"},
    "val_fingerprint": None,
    "given": {"consistency": 0.5, "n_layer": 2},
    "model": ModelConfig(n_layer=2).to_mapping(),
    "training": TrainConfig(r_drop=0.5).to_mapping(),
    "of_a_later_version": [1, 2],
}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    run.write_info(CONTENT)
    return run


def test_former_setting_names_are_read_as_the_current_ones(run: RunFolder) -> None:
    info = RunInfo.read(run)
    assert info.given == {"r_drop": 0.5, "n_layer": 2}
    assert (info.model.n_layer, info.training.r_drop) == (2, 0.5)


def test_unknown_keys_are_written_as_they_were_read(run: RunFolder) -> None:
    info = RunInfo.read(run).with_facts({"speed": 2.0})
    run.write_info(info.to_mapping())
    expected = {**CONTENT, "given": {"r_drop": 0.5, "n_layer": 2}, "speed": 2.0}
    assert run.read_info() == expected


def test_digests_are_those_of_the_training_and_the_validation_texts(run: RunFolder) -> None:
    info = RunInfo.read(run)
    assert (info.text_digests, info.val_digests) == (["12ab"], [])
    assert info.with_facts({"val_fingerprint": {"b.txt": "34cd"}}).val_digests == ["34cd"]


@pytest.mark.parametrize(
    "damage",
    [
        {"texts": 5},
        {"given": []},
        {"given": {"r_drop": 1.0, "consistency": 1.0}},
        {"model": {"n_layer": "x"}},
        {"training": None},
        {"fingerprint": 3},
    ],
)
def test_a_damaged_run_json_is_one_checkpoint_error(run: RunFolder, damage: dict[str, Any]) -> None:
    run.write_info({**CONTENT, **damage})
    with pytest.raises(CheckpointError, match="run.json is damaged") as error:
        RunInfo.read(run)
    assert "train TEXT --from run" in error.value.fix
