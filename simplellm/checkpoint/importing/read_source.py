"""The reader for a path: a model folder or a GGUF file."""

from __future__ import annotations

import re
from pathlib import Path

from simplellm.checkpoint.importing.gguf_file import is_gguf, read_gguf
from simplellm.checkpoint.importing.hugging_face_folder import is_model_folder, read_folder
from simplellm.checkpoint.importing.source_model import SourceModel
from simplellm.errors import CheckpointError

ON_HUB = re.compile(r"(?:https?:/+huggingface\.co/)?([\w-][\w.-]*/[\w.-]+)/?")
MOST_NAMED = 3  # models in an error message


def is_model(path: Path) -> bool:
    """Whether there is a model folder or a GGUF file at `path`; it may still be damaged."""
    return is_gguf(path) or is_model_folder(path)


def read_source(path: Path, context: int | None = None) -> SourceModel:
    """The model at `path`, its weights not yet read.

    context: limit of the context in tokens; see `read_folder`.
    """
    if is_model_folder(path):
        return read_folder(path, context)
    if is_gguf(path):
        return read_gguf(path, context)
    what = "is neither a model folder nor a GGUF file" if path.exists() else "does not exist"
    raise CheckpointError(f"{path} {what}", fix=instead_of(path))


def instead_of(path: Path) -> str:
    """What to name in place of a path that is no model."""
    if path.is_file() and is_model_folder(path.parent):
        return f"name the folder of the model: {path.parent}"
    if path.is_dir():
        models = sorted(str(child) for child in path.iterdir() if is_model(child))
        if models:
            more = ", ..." * (len(models) > MOST_NAMED)
            return f"name a model in it: {', '.join(models[:MOST_NAMED])}{more}"
    on_hub = None if path.exists() else ON_HUB.fullmatch(path.as_posix())
    return (
        f"for a model on the hub: hf:{on_hub[1]}" if on_hub else "name a folder with a config.json"
    )
