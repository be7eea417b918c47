"""The run folder: its files, pointers, retention, and saves that fail."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from simplellm.checkpoint.find_runs import (
    find_checkpoint,
)
from simplellm.checkpoint.run import KEPT_LAST, RunFolder
from simplellm.checkpoint.step_folder import load_model
from simplellm.checkpoint.training_state import TrainingState
from simplellm.data.tokenizer import Tokenizer
from simplellm.model.transformer import SimpleLLM

CPU = torch.device("cpu")
MODEL_FILES = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
]
STEP_FILES = sorted(
    [*MODEL_FILES, "manifest.json", "training/state.json", "training/state.safetensors"]
)


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """A checkpoints folder with the run `tiny`, which a test may damage."""
    return Path(shutil.copytree(trained, tmp_path / "checkpoints"))


def files_of(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def model_and_tokenizer(trained: Path) -> tuple[SimpleLLM, Tokenizer]:
    return load_model(RunFolder(trained / "tiny").best(), CPU)


def save(
    run: RunFolder, step: int, loss: float, model: SimpleLLM, tokenizer: Tokenizer, best: bool
) -> Path:
    state = TrainingState({"step": step}, {"x": torch.ones(2)})
    return run.save(step, model, tokenizer, state, {"val_loss": loss}, best)


def test_a_run_folder_has_the_files_of_the_contract(trained):
    run = trained / "tiny"
    kept = {"run.json", "log.jsonl", "best.json", "last.json"}
    assert {path.name for path in run.iterdir() if path.is_file()} == kept | {
        "report.json",
        "loss.svg",
    }  # the last two are written at the end
    assert {path.name for path in run.iterdir() if path.is_dir()} == {"step-000020", "step-000030"}
    assert files_of(run / "step-000030") == STEP_FILES
    info = json.loads((run / "run.json").read_text())
    assert {"model", "training", "fingerprint", "versions", "command", "started_at"} <= set(info)


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", "null", '{"path": 5}', '{"path": "../../x"}', '{"step": 1}', "\x00"]
)
def test_a_damaged_pointer_is_replaced(copy, content, tmp_path):
    run = RunFolder(copy / "tiny")
    (run.path / "best.json").write_text(content)
    assert find_checkpoint(None, copy, lambda text: None) == run.path / "step-000030"
    model, tokenizer = load_model(run.best(), CPU)
    save(run, 40, 1.0, model, tokenizer, best=False)
    assert run.last().name == "step-000040"


def test_saves_update_the_pointers(trained, tmp_path):
    model, tokenizer = model_and_tokenizer(trained)
    run = RunFolder(tmp_path / "run")
    save(run, 1, 2.0, model, tokenizer, best=True)
    save(run, 2, 3.0, model, tokenizer, best=False)
    assert run.pointer("best") == {"step": 1, "path": "step-000001", "val_loss": 2.0}
    assert run.pointer("last") == {"step": 2, "path": "step-000002", "val_loss": 3.0}
    assert (run.best().name, run.last().name) == ("step-000001", "step-000002")


def test_the_best_and_the_last_checkpoints_are_kept(trained, tmp_path):
    model, tokenizer = model_and_tokenizer(trained)
    run = RunFolder(tmp_path / "run")
    for step in range(1, 8):
        save(run, step, 0.0, model, tokenizer, best=step == 2)
    assert {"step-000002", "step-000007"} <= {folder.name for folder in run.step_folders()}
    assert len(run.step_folders()) == 1 + KEPT_LAST
    assert run.best().name == "step-000002"


def test_retention_deletes_no_other_folders(trained, tmp_path):
    model, tokenizer = model_and_tokenizer(trained)
    others = [
        tmp_path / "run" / "step-notes",
        tmp_path / "run" / "mine",
        tmp_path / "other" / "step-000001",
    ]
    for folder in others:
        folder.mkdir(parents=True)
    for step in range(1, 6):
        save(RunFolder(tmp_path / "run"), step, 0.0, model, tokenizer, best=False)
    assert all(folder.is_dir() for folder in others)


@pytest.mark.parametrize(
    "broken",
    [
        "step_folder.to_hub_state",
        "run.write_checkpoint",
        "step_folder.ManifestWriter",
        "run.new_folder",
    ],
)
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_save_changes_no_file(trained, tmp_path, monkeypatch, broken, error):
    model, tokenizer = model_and_tokenizer(trained)
    run = RunFolder(tmp_path / "run")
    save(run, 1, 2.0, model, tokenizer, best=True)
    before = files_of(tmp_path)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(f"simplellm.checkpoint.{broken}", fail)
    with pytest.raises(type(error)):
        save(run, 2, 1.0, model, tokenizer, best=True)
    assert files_of(tmp_path) == before
    assert run.best().name == run.last().name == "step-000001"
