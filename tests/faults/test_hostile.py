"""Hostile model files are refused or harmless."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from faults.hostile import entry, headers, patterns, tensors_file
from faults.own_process import run_module
from faults.tiny import go_on, train
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.step_folder import load_model, verify_checkpoint
from simplellm.checkpoint.training_state import load_training_state
from simplellm.errors import CheckpointError, TokenizerError
from simplellm.storage.manifest import MANIFEST_NAME, write_manifest
from simplellm.storage.safetensors_header import read_header

TESTS = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
HEADERS = dict(headers())


@pytest.mark.slow
def test_many_hostile_files_are_refused_or_harmless(report_count):
    (line,) = run_module("hostile")
    report_count(line)
    assert line.endswith("refused or harmless, 0 not")


@pytest.mark.slow
def test_many_damaged_models_from_elsewhere_are_refused_or_harmless(report_count):
    pytest.importorskip("gguf", reason="needs the package gguf")
    (line,) = run_module("hostile_sources")
    report_count(line)
    assert line.endswith("refused or harmless, 0 not")


@pytest.mark.parametrize("what", HEADERS)
def test_an_inconsistent_safetensors_header_is_refused(tmp_path, what):
    (tmp_path / "x").write_bytes(HEADERS[what])
    with pytest.raises(CheckpointError, match="is not a valid safetensors file"):
        read_header(tmp_path / "x")


def test_a_valid_header_gives_type_shape_and_offsets(tmp_path):
    content = tensors_file(
        {"b": entry("BF16", [3], [16, 22]), "a": entry(), "__metadata__": {"format": "pt"}},
        bytes(22),
    )
    (tmp_path / "x").write_bytes(content)
    assert {name: tuple(tensor) for name, tensor in read_header(tmp_path / "x").items()} == {
        "b": ("BF16", (3,), 16, 22), "a": ("F32", (2, 2), 0, 16),
    }  # fmt: skip


@pytest.fixture
def folder(checkpoints: Path) -> Path:
    """A checkpoint after 3 of 4 steps."""
    train(checkpoints, max_steps=3)
    run = RunFolder(checkpoints / "run")
    info = run.read_info()
    run.write_info({**info, "training": {**info["training"], "max_steps": 4}})
    return run.last()


def rewrite_manifest(folder: Path) -> None:
    (folder / MANIFEST_NAME).unlink()
    write_manifest(folder)


def change_json(folder: Path, name: str, **changes: Any) -> None:
    (folder / name).write_text(json.dumps({**json.loads((folder / name).read_text()), **changes}))
    rewrite_manifest(folder)


def change_state(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    path = folder / "training" / "state.safetensors"
    state = safetensors.torch.load(path.read_bytes())
    change(state)
    path.write_bytes(safetensors.torch.save(state))
    rewrite_manifest(folder)


MATRIX = "optimizer/blocks.0.attention.qkv.weight/momentum"
STATE_CHANGES: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
    "of another shape": lambda state: state.update({MATRIX: torch.ones(1)}),
    "missing": lambda state: state.pop(MATRIX),
    "of another optimizer": lambda state: state.update(
        {MATRIX.replace("momentum", "exp_avg"): state[MATRIX].clone()}
    ),
    "of no weight": lambda state: state.update({"optimizer/x/momentum": torch.ones(1)}),
    "of no kind": lambda state: state.update({"x": torch.ones(1)}),
    "not finite": lambda state: state[MATRIX].view(-1).__setitem__(5, float("nan")),
    "integers": lambda state: state.update({MATRIX: state[MATRIX].int()}),
    "live weights missing": lambda state: state.pop("live/final_norm.weight"),
    "live weights of another shape": lambda state: state.update(
        {"live/final_norm.weight": torch.ones(3)}
    ),
}


@pytest.mark.parametrize("what", STATE_CHANGES)
def test_training_state_that_does_not_fit_is_refused(checkpoints, folder, what):
    assert {MATRIX, "live/final_norm.weight"} <= load_training_state(folder).tensors.keys()
    change_state(folder, STATE_CHANGES[what])
    with pytest.raises(CheckpointError):
        go_on(checkpoints)


FIGURES = [
    {"step": 2}, {"step": "3"}, {"step": None}, {"best": 5}, {"best": {"step": 10**4000}},
    {"best": {"val_loss": "x"}},
    {"best": {"step": 9, "val_loss": 1.0, "tokens": 1, "bytes": 1, "accuracy": 0.5}},
    {"best": {"step": 3, "val_loss": 1.0, "tokens": 1, "bytes": 0, "accuracy": 0.5}},
    {"scaler": []}, {"scaler": None}, {"seconds": "x"}, {"seconds": []},
    {"evaluations_without_best": {}}, {"skipped_steps": "x"},
]  # fmt: skip


@pytest.mark.parametrize("change", FIGURES, ids=str)
def test_impossible_training_figures_are_refused_or_harmless(checkpoints, folder, change):
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    change_json(folder, "training/state.json", **change)
    sys.set_int_max_str_digits(limit)
    try:
        assert go_on(checkpoints).steps == 4
    except CheckpointError as error:
        assert len(str(error)) < 500
    else:
        assert change.keys() & {"scaler"}, "the scaler is used only with fp16"


def test_non_finite_figures_are_refused(folder):
    text = (folder / "training" / "state.json").read_text()
    for number in ("NaN", "Infinity", "-Infinity", "1e999"):
        (folder / "training" / "state.json").write_text(
            text.replace('"skipped_steps": 0', f'"skipped_steps": {number}')
        )
        with pytest.raises(CheckpointError, match="not JSON"):
            load_training_state(folder)


def test_an_unknown_split_pattern_is_refused(folder):
    whole = (folder / "tokenizer.json").read_bytes()
    hostile = list(patterns(folder / "tokenizer.json"))
    for _, content in hostile:
        (folder / "tokenizer.json").write_bytes(content)
        rewrite_manifest(folder)
        with pytest.raises(TokenizerError, match="pattern"):
            load_model(folder, CPU)
    (folder / "tokenizer.json").write_bytes(whole)
    rewrite_manifest(folder)
    assert len(hostile) > 5 and load_model(folder, CPU)


def test_a_config_cannot_request_a_huge_rope_table(folder, monkeypatch):
    change_json(folder, "config.json", max_position_embeddings=1 << 20)
    verify_checkpoint(folder)  # 64 MB, because the heads are small
    monkeypatch.setattr("simplellm.checkpoint.step_folder.MAX_ROPE_BYTES", 1 << 25)
    with pytest.raises(CheckpointError, match="context"):
        verify_checkpoint(folder)
