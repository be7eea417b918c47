"""The export format `gguf`: one file for llama.cpp, Ollama and other programs built on ggml.

The format is described in https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Names, number
formats and the order of rows are those of llama.cpp's own converter.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import gguf
import numpy as np

from simplellm.checkpoint.export.exported_model import ExportedModel
from simplellm.checkpoint.export.gguf_architectures import gguf_architecture
from simplellm.checkpoint.export.gguf_metadata import add_metadata
from simplellm.checkpoint.export.gguf_tensors import StoredTensor, gguf_tensors
from simplellm.checkpoint.export.gguf_tokenizer import add_tokenizer


def write(model: ExportedModel, type: str, path: Path) -> None:
    """Write the model as GGUF; matrices have the number format `type`. One tensor at a time.

    CheckpointError for a model that llama.cpp cannot compute, or that `type` cannot hold.
    """
    logging.getLogger("gguf").setLevel(logging.ERROR)  # it reports each file that it opens
    architecture = gguf_architecture(model)
    writer = gguf.GGUFWriter(path, architecture.name)
    add_metadata(writer, model, type)
    add_tokenizer(writer, model)
    stored = gguf_tensors(model, architecture, type)
    for each in stored:
        writer.add_tensor_info(
            each.name, each.shape, np.dtype(np.float32), each.n_bytes, raw_dtype=each.type
        )
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        assert writer.fout is not None
        file = writer.fout[0]
        writer.write_padding(file, file.tell())
        for each in stored:
            # not by `write_tensor_data`, which hides the error number of a full disk
            file.write(each.data())
            writer.write_padding(file, each.n_bytes)
        writer.flush()
        os.fsync(file.fileno())
    finally:
        writer.close()
    _report_fallbacks(model, type, stored)


def _report_fallbacks(model: ExportedModel, type: str, stored: list[StoredTensor]) -> None:
    fallbacks = [each for each in stored if each.is_fallback]
    if fallbacks:
        first = fallbacks[0]
        model.notice(
            f"{len(fallbacks)} of {len(stored)} tensors are stored as f16, because {type} needs "
            f"rows of a multiple of 32 numbers: {first.name} has {first.shape[-1]}"
        )
