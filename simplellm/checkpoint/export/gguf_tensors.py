"""Tensors of a GGUF file: names, number formats, and the order of rows for rotary positions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod

import gguf
import numpy as np
import torch
from torch import Tensor

from simplellm.checkpoint.export.exported_model import ExportedModel
from simplellm.checkpoint.export.gguf_architectures import GgufArchitecture, rope_factors
from simplellm.checkpoint.tensors import LazyTensor, refuse_non_finite
from simplellm.errors import CheckpointError

TYPES = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "bf16": gguf.GGMLQuantizationType.BF16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
}


@dataclass(frozen=True)
class StoredTensor:
    """How a tensor is stored.

    shape: rows first, as in torch. type: number format; is_fallback: it is not the requested one,
    which the shape does not allow. read: reads the tensor; is_transposed: as (columns, rows).
    interleaved_heads: heads whose rows change their order; see `_interleaved`.
    """

    name: str
    shape: tuple[int, ...]
    type: gguf.GGMLQuantizationType
    read: Callable[[], Tensor]
    is_fallback: bool = False
    is_transposed: bool = False
    interleaved_heads: int = 0

    @property
    def n_bytes(self) -> int:
        values, size = gguf.GGML_QUANT_SIZES[self.type]
        return prod(self.shape) // values * size

    def data(self) -> memoryview:
        """The bytes of the tensor, `n_bytes` long; CheckpointError if `type` cannot hold it."""
        tensor = self.read()
        refuse_non_finite({self.name: tensor})
        if self.is_transposed:
            tensor = tensor.t()
        if self.interleaved_heads:
            tensor = _interleaved(tensor, self.interleaved_heads)
        array = _as_type(tensor.contiguous(), self.type)
        if self.type is gguf.GGMLQuantizationType.F16 and not np.isfinite(array).all():
            raise CheckpointError(
                f"{self.name} has numbers that f16 cannot hold", fix="use --type bf16 or f32"
            )
        assert array.nbytes == self.n_bytes
        return array.reshape(-1).view(np.uint8).data


def gguf_tensors(
    model: ExportedModel, architecture: GgufArchitecture, type: str
) -> list[StoredTensor]:
    """The tensors of the file in their order."""
    names = gguf.get_tensor_name_map(architecture.arch, model.config.n_layer)
    stored = []
    for hub_name, tensor in model.tensors.items():
        name = names.get_name(hub_name, try_suffixes=(".weight", ".bias"))
        assert name is not None, f"no GGUF name for {hub_name}"
        is_transposed = _is_transposed(name, tensor, model)
        shape = tensor.shape[::-1] if is_transposed else tensor.shape
        stored_type = _stored_type(name, shape, TYPES[type])
        stored.append(
            StoredTensor(
                name,
                shape,
                stored_type,
                tensor.read,
                is_fallback=stored_type not in (TYPES[type], TYPES["f32"]),
                is_transposed=is_transposed,
                interleaved_heads=_interleaved_heads(name, model, architecture),
            )
        )
    factors = rope_factors(model)
    if factors is not None:
        read = partial(torch.from_numpy, factors)
        stored.append(StoredTensor("rope_freqs.weight", factors.shape, TYPES["f32"], read))
    return stored


def _is_transposed(name: str, tensor: LazyTensor, model: ExportedModel) -> bool:
    is_block_matrix = name.startswith("blk.") and len(tensor.shape) == 2
    return model.architecture.hub_names.has_transposed_matrices and is_block_matrix


def _interleaved_heads(name: str, model: ExportedModel, architecture: GgufArchitecture) -> int:
    heads = {"attn_q": model.config.n_head, "attn_k": model.config.kv_heads}
    return heads.get(name.split(".")[-2], 0) if architecture.has_interleaved_rope else 0


def _stored_type(
    name: str, shape: tuple[int, ...], wanted: gguf.GGMLQuantizationType
) -> gguf.GGMLQuantizationType:
    """The number format of a tensor, as llama.cpp's converter chooses it."""
    if len(shape) == 1 or name == "position_embd.weight":  # its readers need float32
        return gguf.GGMLQuantizationType.F32
    values_per_block, _ = gguf.GGML_QUANT_SIZES[wanted]
    return gguf.GGMLQuantizationType.F16 if shape[-1] % values_per_block else wanted


def _interleaved(tensor: Tensor, n_heads: int) -> Tensor:
    """Rows of each head in the order 0, D/2, 1, D/2 + 1, ..., so that rotated pairs are adjacent.

    llama.cpp rotates adjacent dimensions of Llama models.
    """
    halves = tensor.view(n_heads, 2, tensor.shape[0] // n_heads // 2, *tensor.shape[1:])
    return halves.swapaxes(1, 2).reshape(tensor.shape)


def _as_type(tensor: Tensor, type: gguf.GGMLQuantizationType) -> np.ndarray:
    """`tensor`, contiguous, in a number format of ggml; bf16 as int16, q8_0 as blocks of bytes."""
    if type is gguf.GGMLQuantizationType.F16:
        return tensor.to(torch.float16).numpy()
    if type is gguf.GGMLQuantizationType.BF16:
        return tensor.to(torch.bfloat16).view(torch.int16).numpy()
    array = tensor.float().numpy()
    return array if type is gguf.GGMLQuantizationType.F32 else gguf.quantize(array, type)
