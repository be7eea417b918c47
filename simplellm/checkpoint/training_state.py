"""The folder training/ of a checkpoint: what only a resumed run needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from simplellm.checkpoint.pointers import Figures
from simplellm.checkpoint.step_names import step_of
from simplellm.checkpoint.tensors import State, read_tensors, refuse_non_finite, tensors_bytes
from simplellm.errors import CheckpointError
from simplellm.storage.json_files import json_bytes, read_json
from simplellm.storage.manifest import ManifestWriter
from simplellm.storage.safetensors_header import check_fit, read_header

TRAINING_FOLDER = "training"
FIGURES_FILE = "training/state.json"
TENSORS_FILE = "training/state.safetensors"
STATE_TYPES = ("F32",)


@dataclass(frozen=True)
class TrainingState:
    """State of a trainer between two steps.

    figures: values that JSON can hold, such as the step and the best evaluation so far.
    tensors: live weights, optimizer state.
    """

    figures: Figures
    tensors: State

    def with_evaluation(self, figures: Figures) -> TrainingState:
        """With the checkpoint's own evaluation, from which pointers can be made again."""
        return replace(self, figures={**self.figures, "evaluation": figures})


def write_training_state(files: ManifestWriter, state: TrainingState) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    files.write(TENSORS_FILE, tensors_bytes(tensors))
    files.write(FIGURES_FILE, json_bytes(state.figures))


def load_training_state(folder: Path) -> TrainingState:
    """The training state of a verified checkpoint.

    CheckpointError unless it belongs to the step of the folder and all its numbers are finite.
    """
    figures = read_json(folder / FIGURES_FILE)
    if figures.get("step") != step_of(folder):
        raise CheckpointError(f"{folder / FIGURES_FILE} belongs to another step than {folder.name}")
    check_tensor_types(folder)
    path = folder / TENSORS_FILE
    tensors = read_tensors(path)
    try:
        refuse_non_finite(tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return TrainingState(figures, tensors)


def check_tensor_types(folder: Path) -> None:
    """CheckpointError for number formats that `write_training_state` never writes."""
    path = folder / TENSORS_FILE
    header = read_header(path)
    check_fit(path, header, {name: entry.shape for name, entry in header.items()}, STATE_TYPES)
