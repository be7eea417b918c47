"""The index of a training text on disk: written once, checked by SHA-256 before each use."""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from simplellm.evaluation.copied_text.suffix_array import Shard, build_shards
from simplellm.storage.files import digests_of, has_digests, new_folder, write_file
from simplellm.storage.json_files import json_bytes

INDEX_VERSION = f"1, Unicode {unicodedata.unidata_version}"
SHARD_ARRAYS = {"vocabulary": "<u8", "words": ">u4", "order": "<u4", "lines": "<i8", "marks": "<i8"}


class IndexSource(NamedTuple):
    """A text to be indexed."""

    chunks: Iterable[str]
    documents: Callable[[], np.ndarray]  # (D, 2) file index and line; valid after all chunks


class Index(NamedTuple):
    """An indexed text."""

    shards: list[Shard]
    documents: np.ndarray  # (D, 2): file index and first line of each document


def load_or_build(
    target: Path, source: Callable[[], IndexSource | None], announce: Callable[[], None]
) -> Index | None:
    """The index in the folder `<target>-words`; if it is missing or damaged, it is built.

    `source` gives the text (None: not available, and so is the index). `announce` is called before
    an index is built. If nothing can be written, the index stays in memory.
    """
    folder = target.with_name(f"{target.name}-words")
    if found := _load(folder):
        return found
    text = source()
    if text is None:
        return None
    announce()
    shutil.rmtree(folder, ignore_errors=True)
    try:
        _save(folder, text)
    except OSError:  # nothing can be written there, or another process was faster
        text = source() or text
        return _load(folder) or Index(list(build_shards(text.chunks)), text.documents())
    return _load(folder)


def _save(folder: Path, text: IndexSource) -> None:
    with new_folder(folder) as temporary:
        firsts = []
        for number, shard in enumerate(build_shards(text.chunks)):
            firsts.append(shard.first)
            for name, dtype in SHARD_ARRAYS.items():
                data = getattr(shard, name).astype(dtype).tobytes()
                write_file(temporary / f"{number}-{name}.bin", data)
        write_file(temporary / "documents.bin", text.documents().astype("<u4").tobytes())
        digests = digests_of(temporary, sorted(path.name for path in temporary.iterdir()))
        meta = {"version": INDEX_VERSION, "firsts": firsts, "sha256": digests}
        write_file(temporary / "meta.json", json_bytes(meta))


def _load(folder: Path) -> Index | None:
    """None if the index is missing, damaged or of another version."""
    try:
        meta = json.loads((folder / "meta.json").read_bytes())
        firsts = [int(first) for first in meta["firsts"]]
        names = [f"{number}-{name}.bin" for number in range(len(firsts)) for name in SHARD_ARRAYS]
        is_current = meta["version"] == INDEX_VERSION
        if not (is_current and has_digests(folder, [*names, "documents.bin"], meta["sha256"])):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    shards = [_load_shard(folder, number, first) for number, first in enumerate(firsts)]
    return Index(shards, _map_array(folder / "documents.bin", "<u4").reshape(-1, 2))


def _load_shard(folder: Path, number: int, first: int) -> Shard:
    arrays = {
        name: _map_array(folder / f"{number}-{name}.bin", dtype)
        for name, dtype in SHARD_ARRAYS.items()
    }
    return Shard(first, **arrays)


def _map_array(path: Path, dtype: str) -> np.ndarray:
    """Memory-mapped, except that an empty file cannot be mapped."""
    if not path.stat().st_size:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, mode="r").view(np.ndarray)
