"""Encoded texts: the token ids of a whole corpus in a temporary file, read in parts."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from simplellm.data.corpus import Corpus
from simplellm.data.prepared_corpus import id_type, write_ids
from simplellm.data.source import TextChunk
from simplellm.data.tokenizer import Tokenizer
from simplellm.data.utf8 import utf8_length

Progress = Callable[[float], None]


class TokenFile:
    """Token ids in a file. A slice reads its part; a memory map would keep all of it in memory."""

    def __init__(self, file: BinaryIO, dtype: np.dtype) -> None:
        self._file = file
        self._dtype = dtype
        self._length = file.seek(0, 2) // dtype.itemsize

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop, step = part.indices(self._length)
        assert step == 1, "the ids of a part that is read at once"
        self._file.seek(start * self._dtype.itemsize)
        data = self._file.read(max(stop - start, 0) * self._dtype.itemsize)
        return np.frombuffer(data, self._dtype)


@contextlib.contextmanager
def encoded(
    corpus: Corpus, tokenizer: Tokenizer, progress: Progress = lambda done: None
) -> Iterator[TokenFile]:
    """The ids of a whole corpus, as `prepare` writes them, in a temporary file for the block.

    `progress` receives the share that is encoded.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ids.bin"
        write_ids(path, _reported(corpus, progress), tokenizer)
        with open(path, "rb") as file:
            yield TokenFile(file, id_type(tokenizer))


def _reported(corpus: Corpus, progress: Progress) -> Iterator[TextChunk]:
    done = 0
    for chunk in corpus.chunks():
        yield chunk
        done += utf8_length(chunk.text)
        progress(done / corpus.n_bytes)
