"""The safetensors files of a model folder: one file, or many shards with an index.

Nothing but headers is read at first. Each tensor is read from its byte range when it is needed, so
that a model never is in memory twice.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from simplellm.checkpoint.int8_tensors import SCALE_SUFFIX, from_int8
from simplellm.checkpoint.tensors import LazyTensor
from simplellm.errors import CheckpointError
from simplellm.storage.json_files import read_json
from simplellm.storage.safetensors_header import Entry, data_start, read_header

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
INT8 = "I8"


def lazy_tensors(folder: Path, ignored: tuple[str, ...] = ()) -> dict[str, LazyTensor]:
    """All tensors of a model folder but those whose names end with one of `ignored`.

    Matrices in 8 bits become float32 when they are read. CheckpointError where files are missing or
    damaged, or a tensor has another type than F32, F16 or BF16.
    """
    if (folder / WEIGHTS_FILE).is_file():
        return _tensors_of(folder / WEIGHTS_FILE, None, ignored)
    if (folder / INDEX_FILE).is_file():
        return _tensors_of_shards(folder, ignored)
    if any(path.suffix in PICKLED for path in folder.glob("*")):
        raise CheckpointError(
            f"{folder} has pickled weights only, which can run any code when they are opened",
            fix="save it as safetensors: save_pretrained(folder, safe_serialization=True)",
        )
    raise CheckpointError(
        f"{folder} has no {WEIGHTS_FILE}", fix="name a folder that save_pretrained wrote"
    )


def _tensors_of_shards(folder: Path, ignored: tuple[str, ...]) -> dict[str, LazyTensor]:
    index = folder / INDEX_FILE
    shard_of = read_json(index).get("weight_map")
    if not isinstance(shard_of, dict) or not all(map(_is_plain_name, shard_of.values())):
        raise CheckpointError(f"{index} does not list files of its own folder")
    names: dict[str, list[str]] = {}
    for name, shard in shard_of.items():
        names.setdefault(shard, []).append(name)
    missing = sorted(shard for shard in names if not (folder / shard).is_file())
    if missing:
        more = f" and {len(missing) - 1} more shards" if len(missing) > 1 else ""
        raise CheckpointError(
            f"{folder} lacks {missing[0]}{more}, which its index lists", fix="download it again"
        )
    tensors: dict[str, LazyTensor] = {}
    for shard, listed in names.items():
        tensors |= _tensors_of(folder / shard, listed, ignored)
    return tensors


def _is_plain_name(shard: object) -> bool:
    """Whether an index names a file of its own folder."""
    return (
        isinstance(shard, str)
        and shard.endswith(".safetensors")
        and not any(character in shard for character in "/\\:\0")
    )


def _tensors_of(
    path: Path, listed: list[str] | None, ignored: tuple[str, ...]
) -> dict[str, LazyTensor]:
    """The tensors of one file; of a shard those that the index lists."""
    entries = read_header(path)
    absent = next((name for name in listed or () if name not in entries), None)
    if absent is not None:
        raise CheckpointError(f"{path} lacks {absent[:100]!r}, which the index lists")
    start = data_start(path)
    scales = {name + SCALE_SUFFIX for name, entry in entries.items() if entry.dtype == INT8}
    return {
        name: _lazy(path, start, name, entries)
        for name in (entries if listed is None else listed)
        if not name.endswith(ignored) and name not in scales
    }


def _lazy(path: Path, start: int, name: str, entries: Mapping[str, Entry]) -> LazyTensor:
    entry = entries[name]
    if entry.dtype == INT8:
        return _lazy_int8(path, start, name, entries)
    if entry.dtype not in DTYPES:
        raise CheckpointError(
            f"{name[:100]!r} in {path} has type {entry.dtype}, expected {', '.join(DTYPES)}"
        )
    dtype = DTYPES[entry.dtype]
    read = functools.partial(_read, path, start + entry.begin, entry.shape, dtype)
    return LazyTensor(entry.shape, dtype, read)


def _lazy_int8(path: Path, start: int, name: str, entries: Mapping[str, Entry]) -> LazyTensor:
    """A matrix in 8 bits with a scale for each row; see int8_tensors.py."""
    entry, scale = entries[name], entries.get(name + SCALE_SUFFIX)
    fits = scale is not None and (scale.dtype, scale.shape) == ("F32", entry.shape[:1])
    if scale is None or not fits or len(entry.shape) != 2:
        raise CheckpointError(
            f"{name[:100]!r} in {path} is of type I8, without a scale for each row in F32"
        )
    places = (start + entry.begin, start + scale.begin)

    def read() -> Tensor:
        integers = _read(path, places[0], entry.shape, torch.int8)
        return from_int8(integers, _read(path, places[1], entry.shape[:1], torch.float32))

    return LazyTensor(entry.shape, torch.float32, read)


def _read(path: Path, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Read without a copy: the bytes of the file become the tensor's own."""
    tensor = torch.empty(shape, dtype=dtype)
    buffer: memoryview = tensor.view(-1).view(torch.uint8).numpy().data
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(offset)
            n_read = 0
            while n_read < len(buffer):
                n_new = file.readinto(buffer[n_read:])
                if not n_new:
                    raise CheckpointError(f"{path} is shorter than its header says")
                n_read += n_new
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    return tensor
