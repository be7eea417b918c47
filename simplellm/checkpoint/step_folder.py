"""One checkpoint: writing, verifying and loading of a folder RUN/step-000400.

`transformers` opens it as a model. A checkpoint is data: nothing is pickled, and sizes stated in a
file are checked before memory is allocated for them.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from simplellm.checkpoint.adapter_files import adapter_files
from simplellm.checkpoint.generation import NOTHING_STATED, TEMPLATE_FILE, Generation
from simplellm.checkpoint.hugging_face import (
    check_tensors,
    from_hub_state,
    to_hub_config,
    to_hub_state,
)
from simplellm.checkpoint.importing.read_source import read_source
from simplellm.checkpoint.importing.source_model import SourceModel
from simplellm.checkpoint.importing.weight_files import WEIGHTS_FILE
from simplellm.checkpoint.model_weights import lazy_weights
from simplellm.checkpoint.step_names import step_of
from simplellm.checkpoint.tensors import tensor_chunks, tensors_bytes
from simplellm.checkpoint.training_state import (
    TRAINING_FOLDER,
    TrainingState,
    check_tensor_types,
    write_training_state,
)
from simplellm.config.model import ModelConfig
from simplellm.data.tokenizer import END_OF_TEXT, Tokenizer
from simplellm.errors import CheckpointError
from simplellm.model.lora import is_adapted
from simplellm.model.transformer import SimpleLLM
from simplellm.storage.files import discard_folder, new_folder, temporary_beside
from simplellm.storage.json_files import JsonObject, json_bytes
from simplellm.storage.manifest import MANIFEST_NAME, ManifestWriter, verify_manifest

MAX_ROPE_BYTES = 1 << 28  # of the table of positions, which config.json decides and no file holds
MAX_ROPE_BYTES_PER_WEIGHT_BYTE = 64


# ---------------------------------------------------------------- writing


def write_checkpoint(
    folder: Path,
    model: SimpleLLM,
    tokenizer: Tokenizer,
    state: TrainingState,
    generation: Generation = NOTHING_STATED,
    base_name: str = "",
) -> None:
    """The files of a checkpoint, in a new folder; the manifest is written last.

    base_name: of the model that adapters belong to, see adapter_files.py.
    """
    files = ManifestWriter(folder)
    described = description_files(model.config, tokenizer, "float32", generation)
    for name, data in {**described, **adapter_files(model, base_name)}.items():
        files.write(name, data)
    if is_adapted(model):
        files.write_chunks(WEIGHTS_FILE, tensor_chunks(lazy_weights(model), {"format": "pt"}))
    else:
        weights = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
        hub_state = to_hub_state(weights, model.config)
        files.write(WEIGHTS_FILE, tensors_bytes(hub_state, {"format": "pt"}))
    write_training_state(files, state)
    files.finish()


def description_files(
    config: ModelConfig,
    tokenizer: Tokenizer,
    dtype: str = "float32",
    generation: Generation = NOTHING_STATED,
) -> dict[str, bytes]:
    """What `transformers` reads beside the weights, which have the number format `dtype`."""
    end = tokenizer.end_of_text
    special = generation.special_ids(end)
    hub_config = {**to_hub_config(config, end, dtype), **special}
    files = {
        "config.json": json_bytes(hub_config),
        "generation_config.json": json_bytes({**special, "do_sample": True}),
        "tokenizer.json": _tokenizer_json(tokenizer),
        "tokenizer_config.json": json_bytes(
            _tokenizer_config(config, tokenizer, special, generation.chat_template is not None)
        ),
    }
    if generation.chat_template is not None:
        files[TEMPLATE_FILE] = generation.chat_template.encode("utf-8", "surrogatepass")
    return files


@functools.lru_cache(maxsize=1)
def _tokenizer_json(tokenizer: Tokenizer) -> bytes:
    """Cached, because a run writes the same tokenizer with each checkpoint."""
    return json_bytes(tokenizer.to_mapping())


def _tokenizer_config(
    config: ModelConfig, tokenizer: Tokenizer, special: JsonObject, has_template: bool
) -> JsonObject:
    ends = special["eos_token_id"]
    end = ends[0] if isinstance(ends, list) else ends
    is_own = end == tokenizer.end_of_text == special["bos_token_id"]
    names = {} if is_own else _special_names(tokenizer)
    eos_name = names.get(end, END_OF_TEXT)
    bos_name = END_OF_TEXT if is_own else names.get(special["bos_token_id"])
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **({} if bos_name is None else {"bos_token": bos_name}),
        "eos_token": eos_name,
        "pad_token": eos_name,  # batches of texts of different lengths need one
        "model_max_length": config.block_size,
        "clean_up_tokenization_spaces": False,
        # <|endoftext|> in a text is ordinary text; other models, and those whose template has
        # special tokens, keep the rule of `transformers`
        **({"split_special_tokens": True} if is_own and not has_template else {}),
    }


def _special_names(tokenizer: Tokenizer) -> dict[int, str]:
    return {token.id: token.content for token in tokenizer.added_tokens}


def seconds_to_save(
    checkpoints: Path, model: SimpleLLM, tokenizer: Tokenizer, state: TrainingState
) -> float:
    """Time to write a checkpoint to this folder: one is written and deleted. 0 where that fails."""
    started_at = time.perf_counter()
    folder = temporary_beside(checkpoints / "rehearsal")
    with contextlib.suppress(OSError):
        with new_folder(folder) as temporary:
            write_checkpoint(temporary, model, tokenizer, state)
        discard_folder(folder)
        return time.perf_counter() - started_at
    return 0.0


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class OpenedModel:
    """model: in eval mode and float32. generation: its special tokens and chat template."""

    model: SimpleLLM
    tokenizer: Tokenizer
    generation: Generation


def open_model(path: Path, device: torch.device, context: int | None = None) -> OpenedModel:
    """Open a checkpoint, which is verified, a model folder or a GGUF file.

    context: limit of the context in tokens; None is the one that the model was saved with, and at
    most DEFAULT_CONTEXT for a model from elsewhere.
    """
    source = _verified_source(path, context)
    model = empty_model(source)
    state = from_hub_state(source.tensors, model.state_dict(), source.config, source.source)
    model.load_state_dict(state, assign=True)
    return OpenedModel(model.to(device).eval(), source.tokenizer, source.generation)


def open_source(path: Path) -> SourceModel:
    """What `open_model` opens, with weights that are not read yet and whose shapes are right."""
    source = _verified_source(path)
    template = empty_model(source).state_dict()
    tensors = check_tensors(source.tensors, template, source.config, source.source)
    return replace(source, tensors=tensors)


def load_model(folder: Path, device: torch.device) -> tuple[SimpleLLM, Tokenizer]:
    """The model and the tokenizer of `open_model`."""
    opened = open_model(folder, device)
    return opened.model, opened.tokenizer


def verify_checkpoint(path: Path) -> None:
    """CheckpointError unless all files of a checkpoint are intact and fit together.

    A model from elsewhere has no manifest; its weights are read instead.
    """
    if not _has_manifest(path):
        open_model(path, torch.device("cpu"))
        return
    source = _verified_source(path)
    template = empty_model(source).state_dict()
    check_tensors(source.tensors, template, source.config, source.source)
    if (path / TRAINING_FOLDER).is_dir():  # an imported model has none
        check_tensor_types(path)


def _verified_source(path: Path, context: int | None = None) -> SourceModel:
    """The model at `path`; CheckpointError for a damaged checkpoint."""
    if _has_manifest(path):
        verify_manifest(path)
    return read_source(path, context)


def _has_manifest(path: Path) -> bool:
    """Whether this project wrote it; a checkpoint of a run that lost its manifest is damaged."""
    return (path / MANIFEST_NAME).exists() or step_of(path) >= 0


def empty_model(source: SourceModel) -> SimpleLLM:
    """A model without values; CheckpointError where the tokenizer or the context do not fit it."""
    _check_context(source)
    _check_vocabulary(source)
    with torch.device("meta"):
        return SimpleLLM(source.config)


def _check_vocabulary(source: SourceModel) -> None:
    """Each token has a row in the table; a table from elsewhere may have more rows."""
    n_tokens, n_rows = source.tokenizer.vocab_size, source.config.vocab_size
    has_own_tokenizer = source.config.architecture == "modern"
    if n_tokens > n_rows or (has_own_tokenizer and n_tokens != n_rows):
        raise CheckpointError(
            f"{source.source} has a tokenizer of {n_tokens} tokens, the model expects {n_rows}",
            fix="use the tokenizer saved with the model",
        )


def _check_context(source: SourceModel) -> None:
    """CheckpointError where a small file asks for a huge table of positions."""
    config = source.config
    weight_bytes = sum(
        math.prod(tensor.shape) * tensor.dtype.itemsize for tensor in source.tensors.values()
    )
    rope_bytes = 8 * config.block_size * config.head_size
    if rope_bytes > max(MAX_ROPE_BYTES, MAX_ROPE_BYTES_PER_WEIGHT_BYTE * weight_bytes):
        raise CheckpointError(
            f"{source.source} asks for a context of {config.block_size} tokens, "
            "which is too long for its model"
        )
