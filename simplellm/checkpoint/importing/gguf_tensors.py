"""The tensors of a GGUF file by the names of `transformers`, read and dequantized one by one."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from simplellm.checkpoint.tensors import LazyTensor
from simplellm.errors import CheckpointError, SettingError
from simplellm.storage.gguf_header import GgufEntry

PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
BLOCKS_AT_ONCE = 1 << 11  # per row that is handed to the gguf package, which takes 16 rows at once
ROPE_FACTORS = "rope_freqs.weight"  # read as a part of the config

LLAMA_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
GPT2_NAMES = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}


@dataclass(frozen=True)
class TensorLayout:
    """names: of GGUF -> of transformers. block_prefix: of the tensors of a block.

    heads: of the matrices whose rows llama.cpp stores in pairs. is_transposed: matrices of blocks
    are (in, out) in transformers.
    """

    names: Mapping[str, str]
    block_prefix: str
    heads: Mapping[str, int]
    is_transposed: bool = False


def lazy_tensors(
    path: Path, entries: Mapping[str, GgufEntry], layout: TensorLayout
) -> dict[str, LazyTensor]:
    """All tensors; CheckpointError names one that this architecture does not have."""
    return dict(
        _lazy(path, name, entry, layout) for name, entry in entries.items() if name != ROPE_FACTORS
    )


def _lazy(path: Path, name: str, entry: GgufEntry, layout: TensorLayout) -> tuple[str, LazyTensor]:
    *block, part, kind = name.split(".") if "." in name else (name, "")
    hub_part = layout.names.get(part)
    if hub_part is None or kind not in ("weight", "bias") or len(block) not in (0, 2):
        raise CheckpointError(f"{path} has a tensor {name[:100]!r}, which is not supported")
    prefix = f"{layout.block_prefix}{block[1]}." if block else ""
    is_transposed = layout.is_transposed and bool(block) and len(entry.shape) == 2
    shape = entry.shape[::-1] if is_transposed else entry.shape
    n_heads = layout.heads.get(part, 0)
    if n_heads and entry.shape[0] % (2 * n_heads):
        raise CheckpointError(f"{name!r} in {path} has {entry.shape[0]} rows for {n_heads} heads")
    read = functools.partial(_read_part, path, entry, n_heads, is_transposed)
    dtype = PLAIN.get(entry.type, torch.float32)
    return f"{prefix}{hub_part}.{kind}", LazyTensor(shape, dtype, read)


def _read_part(path: Path, entry: GgufEntry, n_heads: int, is_transposed: bool) -> Tensor:
    tensor = read_tensor(path, entry)
    if n_heads:
        tensor = _halves(tensor, n_heads)
    return tensor.t().contiguous() if is_transposed else tensor


def read_tensor(path: Path, entry: GgufEntry) -> Tensor:
    """A tensor in float32, or in its own type if it is not quantized."""
    content = np.fromfile(path, np.uint8, entry.end - entry.begin, offset=entry.begin)
    if len(content) != entry.end - entry.begin:
        raise CheckpointError(f"{path} is shorter than its header says")
    if entry.type in PLAIN:
        return torch.from_numpy(content).view(PLAIN[entry.type]).view(entry.shape)
    return torch.from_numpy(_dequantized(content, entry.type)).view(entry.shape)


def _dequantized(content: np.ndarray, kind: str) -> np.ndarray:
    """The values of blocks in a row, float32.

    The gguf package works on 16 rows at once, so rows are made longer than those of the matrix.
    """
    gguf = _gguf_package()
    code = gguf.GGMLQuantizationType[kind]
    _, block_bytes = gguf.GGML_QUANT_SIZES[code]
    n_blocks = len(content) // block_bytes
    n_even = n_blocks - n_blocks % BLOCKS_AT_ONCE
    blocks = content.reshape(n_blocks, block_bytes)
    parts = [
        gguf.dequantize(part.reshape(-1, width * block_bytes), code).reshape(-1)
        for part, width in ((blocks[:n_even], BLOCKS_AT_ONCE), (blocks[n_even:], n_blocks - n_even))
        if len(part)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _gguf_package():  # type: ignore[no-untyped-def]  # it has no types
    try:
        import gguf
    except ImportError as error:
        raise SettingError(
            "quantized GGUF files need the package gguf", fix="pip install 'simplellm[hub]'"
        ) from error
    return gguf


def _halves(tensor: Tensor, n_heads: int) -> Tensor:
    """Rows of each head in two halves, from llama.cpp's order 0, D/2, 1, D/2 + 1, ..."""
    pairs = tensor.view(n_heads, tensor.shape[0] // n_heads // 2, 2, *tensor.shape[1:])
    return pairs.swapaxes(1, 2).reshape(tensor.shape)
