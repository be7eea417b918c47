"""Reads a GGUF file of llama.cpp: config, tokenizer, chat template and weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from simplellm.checkpoint.generation import MAX_TEMPLATE_BYTES, Generation
from simplellm.checkpoint.hugging_face import from_hub_config
from simplellm.checkpoint.importing.gguf_tensors import (
    GPT2_NAMES,
    LLAMA_NAMES,
    ROPE_FACTORS,
    TensorLayout,
    lazy_tensors,
    read_tensor,
)
from simplellm.checkpoint.importing.gguf_tokenizer import PREFIX, gguf_tokenizer, puts_bos
from simplellm.checkpoint.importing.source_model import SourceModel
from simplellm.errors import CheckpointError
from simplellm.model.architecture import HubConfig
from simplellm.model.rope import rope_frequencies
from simplellm.storage.gguf_header import GgufHeader, read_gguf_header

SUPPORTED = ("gpt2", "llama", "qwen2", "qwen3")
# Llama 3 scales with these; only the factor and the original context vary between its versions.
LOW_FREQUENCY_FACTOR, HIGH_FREQUENCY_FACTOR = 1.0, 4.0
ORIGINAL_CONTEXTS = tuple(1 << n for n in range(5, 21))
FACTOR_TOLERANCE = 1e-3


def is_gguf(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() == ".gguf"


def read_gguf(path: Path, context: int | None = None) -> SourceModel:
    """The model in a file, its weights not yet read.

    context: limit of the context in tokens; None is that of the architecture.
    """
    header = read_gguf_header(path)
    kind = header.metadata.get("general.architecture")
    if kind not in SUPPORTED:
        raise CheckpointError(
            f"{path}: {kind!r:.50} is not supported", fix=f"supported: {', '.join(SUPPORTED)}"
        )
    try:
        data = (_gpt2_config if kind == "gpt2" else _llama_config)(path, header, str(kind))
    except (LookupError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path} lacks metadata of a {kind} model: {error}") from error
    config = from_hub_config(data, str(path), context)
    heads = {"attn_q": config.n_head, "attn_k": config.kv_heads} if kind == "llama" else {}
    if kind == "gpt2":
        layout = TensorLayout(GPT2_NAMES, "transformer.h.", {}, is_transposed=True)
    else:
        layout = TensorLayout(LLAMA_NAMES, "model.layers.", heads)
    return SourceModel(
        str(path),
        config,
        lazy_tensors(path, header.tensors, layout),
        gguf_tokenizer(header.metadata, str(path)),
        _generation(header, path),
    )


# ---------------------------------------------------------------- config


def _llama_config(path: Path, header: GgufHeader, kind: str) -> HubConfig:
    """The config.json of a model of the Llama family."""
    number = _numbers(header, kind)
    n_embd, n_head = number("embedding_length"), number("attention.head_count")
    head_dim = number("attention.key_length", n_embd // n_head)
    rope_dimensions = number("rope.dimension_count", head_dim)
    names = header.tensors
    return {
        "model_type": kind,
        "num_hidden_layers": number("block_count"),
        "num_attention_heads": n_head,
        "num_key_value_heads": number("attention.head_count_kv", n_head),
        "head_dim": head_dim,
        "hidden_size": n_embd,
        "intermediate_size": number("feed_forward_length"),
        "max_position_embeddings": number("context_length"),
        "rms_norm_eps": number("attention.layer_norm_rms_epsilon"),
        "rope_theta": number("rope.freq_base", 10_000.0),
        "vocab_size": names["token_embd.weight"].shape[0],
        "tie_word_embeddings": "output.weight" not in names,
        "attention_bias": kind != "qwen2" and "blk.0.attn_q.bias" in names,
        "mlp_bias": "blk.0.ffn_gate.bias" in names,
        "num_experts": number("expert_count", 0),
        "use_sliding_window": bool(number("attention.sliding_window", 0)),
        "partial_rotary_factor": rope_dimensions / head_dim,
        "rope_scaling": _rope_scaling(path, header, kind, head_dim),
    }


def _gpt2_config(path: Path, header: GgufHeader, kind: str) -> HubConfig:
    number = _numbers(header, kind)
    return {
        "model_type": kind,
        "n_layer": number("block_count"),
        "n_head": number("attention.head_count"),
        "n_embd": number("embedding_length"),
        "n_inner": number("feed_forward_length"),
        "n_positions": header.tensors["position_embd.weight"].shape[0],
        "layer_norm_epsilon": number("attention.layer_norm_epsilon"),
        "vocab_size": header.tensors["token_embd.weight"].shape[0],
        "tie_word_embeddings": "output.weight" not in header.tensors,
    }


def _numbers(header: GgufHeader, kind: str) -> Callable[..., int | float]:
    def number(name: str, default: float | None = None) -> int | float:
        """A number of the metadata; a float32 as the shortest decimal that means it."""
        value = header.metadata.get(f"{kind}.{name}", default)
        if isinstance(value, list) and len(set(value)) == 1:  # one for each block
            value = value[0]
        if value is None:
            raise KeyError(f"{kind}.{name}")
        if type(value) is float:
            return float(str(np.float32(value)))
        if type(value) is not int:
            raise TypeError(f"{kind}.{name} is {value!r:.50}")
        return value

    return number


def _rope_scaling(path: Path, header: GgufHeader, kind: str, head_dim: float) -> HubConfig | None:
    """The scaling of rotary positions; llama.cpp stores that of Llama 3 as a tensor."""
    stated = header.metadata.get(f"{kind}.rope.scaling.type", "none")
    if stated not in ("none", "", None):
        return {"rope_type": str(stated)[:50]}  # refused by name
    entry = header.tensors.get(ROPE_FACTORS)
    if entry is None:
        return None
    base = _numbers(header, kind)("rope.freq_base", 10_000.0)
    if 2 * math.prod(entry.shape) != head_dim:  # before anything of this size is allocated
        raise ValueError(f"{ROPE_FACTORS} does not fit heads of {head_dim} values")
    factors = read_tensor(path, entry).double().numpy().reshape(-1)
    frequencies = rope_frequencies(int(head_dim), float(base)).astype(np.float64)
    if not np.isfinite(factors).all() or factors.min() <= 0:
        raise ValueError(f"{ROPE_FACTORS} does not fit heads of {head_dim} values")
    if np.allclose(factors, 1.0):
        return None
    return _llama3_scaling(factors, frequencies)


def _llama3_scaling(factors: np.ndarray, frequencies: np.ndarray) -> HubConfig:
    """The parameters of Llama 3 that divide the frequencies by these factors."""
    factor = float(str(np.float32(factors.max())))
    for original in ORIGINAL_CONTEXTS:
        turns = original * frequencies / (2 * np.pi)
        kept = (turns - LOW_FREQUENCY_FACTOR) / (HIGH_FREQUENCY_FACTOR - LOW_FREQUENCY_FACTOR)
        kept = kept.clip(0.0, 1.0)
        if np.allclose(1 / (kept + (1 - kept) / factor), factors, rtol=FACTOR_TOLERANCE):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": LOW_FREQUENCY_FACTOR,
                "high_freq_factor": HIGH_FREQUENCY_FACTOR,
                "original_max_position_embeddings": original,
            }
    return {"rope_type": "factors that are not those of Llama 3"}  # refused by name


# ---------------------------------------------------------------- generation


def _generation(header: GgufHeader, path: Path) -> Generation:
    metadata = header.metadata
    ids = [metadata.get(f"{PREFIX}{name}_token_id") for name in ("eos", "eot", "eom")]
    eos_ids = tuple(dict.fromkeys(number for number in ids if type(number) is int))
    bos = metadata.get(f"{PREFIX}bos_token_id") if puts_bos(metadata) else None
    template = metadata.get("tokenizer.chat_template")
    if template is not None and (
        not isinstance(template, str) or len(template) > MAX_TEMPLATE_BYTES
    ):
        raise CheckpointError(f"{path} has a chat_template that is not a text")
    return Generation(eos_ids, bos if type(bos) is int else None, template)
