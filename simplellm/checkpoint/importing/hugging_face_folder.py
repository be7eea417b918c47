"""Reads a model folder as `transformers` saves it, and the checkpoints of this project.

config.json, model.safetensors (or shards with an index), tokenizer.json; if present also
generation_config.json, tokenizer_config.json and chat_template.jinja. No code of the folder is run.
"""

from __future__ import annotations

from pathlib import Path

from simplellm.checkpoint.generation import read_generation
from simplellm.checkpoint.hugging_face import from_hub_config, unused_values
from simplellm.checkpoint.importing.source_model import SourceModel
from simplellm.checkpoint.importing.weight_files import lazy_tensors
from simplellm.data.tokenizer import Tokenizer
from simplellm.errors import CheckpointError
from simplellm.storage.json_files import read_json
from simplellm.storage.manifest import MANIFEST_NAME

CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"


def is_model_folder(path: Path) -> bool:
    """Whether a folder looks like a saved model; it may still be incomplete."""
    return (path / CONFIG_FILE).is_file()


def read_folder(folder: Path, context: int | None = None) -> SourceModel:
    """The model in a folder; only headers of its weights are read.

    context: limit of the context in tokens. None is the one that a checkpoint of this project was
    trained with, and DEFAULT_CONTEXT for other models.
    """
    path = folder / CONFIG_FILE
    data = read_json(path)
    config = from_hub_config(data, str(path), context)
    used = _used_context(folder)
    if context is None and used is not None and config.architecture != "modern":
        config = config.with_context(used)
    tensors = lazy_tensors(folder, unused_values(config))
    return SourceModel(
        str(folder), config, tensors, _tokenizer(folder), read_generation(folder, data)
    )


def _tokenizer(folder: Path) -> Tokenizer:
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        has_other = any((folder / name).is_file() for name in ("tokenizer.model", "vocab.json"))
        fix = "save its fast tokenizer: AutoTokenizer.from_pretrained(...).save_pretrained(folder)"
        raise CheckpointError(
            f"{folder} has no {TOKENIZER_FILE}" + (", only older files" if has_other else ""),
            fix=fix,
        )
    return Tokenizer.from_mapping(read_json(path), str(path))


def _used_context(folder: Path) -> int | None:
    """The context that a checkpoint of this project was trained or imported with."""
    path = folder / "tokenizer_config.json"
    if not (folder / MANIFEST_NAME).is_file() or not path.is_file():
        return None
    length = read_json(path).get("model_max_length")
    return length if type(length) is int and length > 1 else None
