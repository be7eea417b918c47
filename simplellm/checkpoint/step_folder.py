"""One checkpoint: writing, verifying and loading of a folder RUN/step-000400.

`transformers` opens it as a model. A checkpoint is data: nothing is pickled, and sizes stated in a
file are checked before memory is allocated for them.
"""

from __future__ import annotations

import contextlib
import functools
import time
from dataclasses import replace
from pathlib import Path

import torch

from simplellm.checkpoint.hugging_face import (
    from_hub_config,
    from_hub_state,
    to_hub_config,
    to_hub_state,
)
from simplellm.checkpoint.tensors import read_tensors, tensors_bytes
from simplellm.checkpoint.training_state import (
    TrainingState,
    check_tensor_types,
    write_training_state,
)
from simplellm.config.model import ModelConfig
from simplellm.data.tokenizer import END_OF_TEXT, Tokenizer
from simplellm.errors import CheckpointError
from simplellm.model.transformer import SimpleLLM
from simplellm.storage.files import discard_folder, new_folder, temporary_beside
from simplellm.storage.json_files import JsonObject, json_bytes, read_json
from simplellm.storage.manifest import ManifestWriter, verify_manifest
from simplellm.storage.safetensors_header import check_fit, read_header

WEIGHT_TYPES = ("F32", "F16", "BF16")
MAX_ROPE_BYTES = 1 << 28  # of the table of positions, which config.json decides and no file holds
MAX_ROPE_BYTES_PER_WEIGHT_BYTE = 64


# ---------------------------------------------------------------- writing


def write_checkpoint(
    folder: Path, model: SimpleLLM, tokenizer: Tokenizer, state: TrainingState
) -> None:
    """The files of a checkpoint, in a new folder; the manifest is written last."""
    end = tokenizer.end_of_text
    weights = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    generation = {"bos_token_id": end, "eos_token_id": end, "do_sample": True}
    files = ManifestWriter(folder)
    files.write("config.json", json_bytes(to_hub_config(model.config, end)))
    files.write("generation_config.json", json_bytes(generation))
    files.write("tokenizer.json", _tokenizer_json(tokenizer))
    files.write("tokenizer_config.json", json_bytes(_tokenizer_config(model.config)))
    hub_state = to_hub_state(weights, model.config)
    files.write("model.safetensors", tensors_bytes(hub_state, {"format": "pt"}))
    write_training_state(files, state)
    files.finish()


@functools.lru_cache(maxsize=1)
def _tokenizer_json(tokenizer: Tokenizer) -> bytes:
    """Cached, because a run writes the same tokenizer with each checkpoint."""
    return json_bytes(tokenizer.to_mapping())


def _tokenizer_config(config: ModelConfig) -> JsonObject:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,  # batches of texts of different lengths need one
        "model_max_length": config.block_size,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,  # <|endoftext|> in a text is ordinary text
    }


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


def load_model(folder: Path, device: torch.device) -> tuple[SimpleLLM, Tokenizer]:
    """Verify a checkpoint; returns its model (eval mode, float32) and its tokenizer."""
    verify_manifest(folder)
    config, tokenizer = _read_description(folder)
    hub_state = read_tensors(folder / "model.safetensors")
    with torch.device("meta"):
        model = SimpleLLM(config)
    state = from_hub_state(hub_state, model.state_dict(), config)
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    return model.to(device).eval(), tokenizer


def verify_checkpoint(folder: Path) -> None:
    """CheckpointError unless all files of a checkpoint are intact and fit together."""
    verify_manifest(folder)
    _read_description(folder)
    check_tensor_types(folder)


def _read_description(folder: Path) -> tuple[ModelConfig, Tokenizer]:
    """Config and tokenizer; CheckpointError unless they fit the header of the weights."""
    config = from_hub_config(read_json(folder / "config.json"), str(folder / "config.json"))
    _check_weights(folder / "model.safetensors", config)
    _check_context(folder, config)
    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_mapping(read_json(path), str(path))
    if tokenizer.vocab_size != config.vocab_size:
        raise CheckpointError(
            f"{folder} has a tokenizer of {tokenizer.vocab_size} tokens, "
            f"the model expects {config.vocab_size}",
            fix="use the tokenizer saved with the model",
        )
    return config, tokenizer


def _check_weights(path: Path, config: ModelConfig) -> None:
    """CheckpointError unless the header of the weights has the names and shapes of this model."""
    if config.facts.has_rotary_positions:  # then no weight depends on the context length
        config = replace(config, block_size=2)  # a small table of positions
    with torch.device("meta"):
        state = to_hub_state(SimpleLLM(config).state_dict(), config)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    check_fit(path, read_header(path), shapes, WEIGHT_TYPES)


def _check_context(folder: Path, config: ModelConfig) -> None:
    """CheckpointError where a small file asks for a huge table of positions."""
    weight_bytes = (folder / "model.safetensors").stat().st_size
    rope_bytes = 8 * config.block_size * config.head_size
    if rope_bytes > max(MAX_ROPE_BYTES, MAX_ROPE_BYTES_PER_WEIGHT_BYTE * weight_bytes):
        raise CheckpointError(
            f"{folder / 'config.json'} asks for a context of {config.block_size} tokens, "
            "which is too long for its model"
        )
