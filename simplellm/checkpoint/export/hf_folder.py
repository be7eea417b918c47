"""The export format `hf`: a folder that `transformers` opens, with a model card."""

from __future__ import annotations

from pathlib import Path

import torch

from simplellm.checkpoint.export.exported_model import ExportedModel
from simplellm.checkpoint.export.model_card import model_card
from simplellm.checkpoint.step_folder import description_files
from simplellm.checkpoint.tensors import refuse_non_finite, save_tensors
from simplellm.errors import CheckpointError
from simplellm.storage.files import write_file

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def write(model: ExportedModel, type: str, folder: Path) -> None:
    """Write the model into an empty folder. CheckpointError if `type` cannot hold a number."""
    dtype = DTYPES[type]
    dtype_name = str(dtype).removeprefix("torch.")
    generation = model.source.generation
    files = description_files(model.config, model.tokenizer, dtype_name, generation)
    for name, data in files.items():
        write_file(folder / name, data)
    tensors = {name: tensor.read() for name, tensor in model.tensors.items()}
    refuse_non_finite(tensors)
    for name, tensor in tensors.items():
        tensors[name] = tensor.to(dtype)
    try:
        refuse_non_finite(tensors)
    except CheckpointError as error:
        raise CheckpointError(f"as {type}, {error}", fix="use --type bf16 or f32") from error
    save_tensors(folder / "model.safetensors", tensors)
    write_file(folder / "README.md", model_card(model, type).encode())
