"""The reader for a path: a model folder or a GGUF file."""

from __future__ import annotations

from pathlib import Path

from simplellm.checkpoint.importing.gguf_file import is_gguf, read_gguf
from simplellm.checkpoint.importing.hugging_face_folder import is_model_folder, read_folder
from simplellm.checkpoint.importing.source_model import SourceModel
from simplellm.errors import CheckpointError


def is_model(path: Path) -> bool:
    """Whether there is a model folder or a GGUF file at `path`; it may still be damaged."""
    return is_gguf(path) or is_model_folder(path)


def read_source(path: Path, context: int | None = None) -> SourceModel:
    """The model at `path`, its weights not yet read.

    context: limit of the context in tokens; see `read_folder`.
    """
    if path.is_dir():
        return read_folder(path, context)
    if is_gguf(path):
        return read_gguf(path, context)
    raise CheckpointError(
        f"{path} is neither a model folder nor a GGUF file", fix="name a folder with a config.json"
    )
