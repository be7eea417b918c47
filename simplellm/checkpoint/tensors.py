"""Tensors in files of the safetensors format, and the check that their values are finite.

A header is checked before any of its sizes is used: see storage/safetensors_header.py.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from simplellm.errors import CheckpointError
from simplellm.storage.safetensors_header import LENGTH_BYTES, read_header

State = dict[str, Tensor]  # tensors by name
TYPE_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
HEADER_ALIGNMENT = 8  # bytes


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is still in a file.

    read: reads it, as a new tensor of this shape and type on the CPU; the caller may change it.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype  # float32, float16 or bfloat16
    read: Callable[[], Tensor]


def lazy(state: State) -> dict[str, LazyTensor]:
    """Tensors that are in memory already; `read` copies them."""
    return {
        name: LazyTensor(tuple(tensor.shape), tensor.dtype, tensor.clone)
        for name, tensor in state.items()
    }


def tensors_bytes(tensors: State, metadata: dict[str, str] | None = None) -> bytes:
    """The content of a safetensors file; tensors are contiguous and on the CPU."""
    return safetensors.torch.save(tensors, metadata)


def save_tensors(path: Path, tensors: State) -> None:
    """Write a safetensors file that `transformers` opens, without a copy in memory, and fsync it.

    OSError where the disk is full; tensors are contiguous and on the CPU.
    """
    path.touch()
    mode = path.stat().st_mode
    try:
        safetensors.torch.save_file(tensors, path, {"format": "pt"})
    except SafetensorError as error:
        raise OSError(str(error)) from error
    path.chmod(mode)  # safetensors gives only the owner access
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def tensor_chunks(
    tensors: Mapping[str, LazyTensor], metadata: dict[str, str]
) -> Iterator[bytes | memoryview]:
    """The content of a safetensors file in parts; each tensor is read when its part is due.

    CheckpointError for a tensor with a value that is not a finite number.
    """
    header: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + math.prod(tensor.shape) * tensor.dtype.itemsize
        header[name] = {
            "dtype": TYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT)
    yield len(text).to_bytes(LENGTH_BYTES, "little") + text
    for name, tensor in tensors.items():
        values = tensor.read().contiguous()
        refuse_non_finite({name: values})
        yield values.view(-1).view(torch.uint8).numpy().data


def read_tensors(path: Path) -> State:
    read_header(path)
    try:
        return safetensors.torch.load(path.read_bytes())
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} has no readable tensors: {error}") from error


def refuse_non_finite(tensors: Mapping[str, Tensor], source: str = "") -> None:
    """CheckpointError that names the first tensor with a value that is NaN or infinite."""
    for name, tensor in tensors.items():
        if not tensor.numel():
            continue
        # Minimum and maximum are NaN if any value is: 1/14 of the time of torch.isfinite, and only
        # one read from the device.
        extremes = torch.stack(tensor.aminmax()).tolist()
        if not all(map(math.isfinite, extremes)):
            where = f" in {source}" if source else ""
            raise CheckpointError(f"{name!r}{where} has values that are not finite numbers")
