"""The export format `onnx`: a model with a KV cache for ONNX Runtime, by torch's dynamo exporter.

Its inputs and outputs are in onnx_assembly.py. A folder also has the config and the tokenizer as
files; a single file has them in its metadata.
"""

from __future__ import annotations

import os
from pathlib import Path

import onnx_ir
import torch

from simplellm.checkpoint.export.exported_model import ExportedModel
from simplellm.checkpoint.export.onnx_assembly import onnx_graph
from simplellm.checkpoint.hugging_face import from_hub_state
from simplellm.checkpoint.step_folder import description_files
from simplellm.errors import CheckpointError
from simplellm.model.transformer import SimpleLLM
from simplellm.storage.files import write_file

MAX_FILE_BYTES = 2_000_000_000  # protobuf allows 2 GiB; the graph needs some of it
FILE_NAME, DATA_NAME = "model.onnx", "model.onnx_data"


def write(model: ExportedModel, type: str, path: Path) -> None:
    """Write the model into an empty folder, or as a single file.

    CheckpointError for a single file of more than 2 GB.
    """
    weight_bytes = 4 * model.n_parameters
    is_large = weight_bytes > MAX_FILE_BYTES
    if is_large and not path.is_dir():
        raise CheckpointError(
            f"an ONNX file has at most 2 GB, the weights have {weight_bytes / 1e9:.1f}",
            fix="name a folder instead: --out NAME without .onnx",
        )
    graph = _graph(model)
    generation = model.source.generation
    files = description_files(model.config, model.tokenizer, generation=generation)
    if not path.is_dir():
        graph.metadata_props.update({name: data.decode() for name, data in files.items()})
        onnx_ir.save(graph, path)
        _sync(path)
        return
    onnx_ir.save(graph, path / FILE_NAME, external_data=DATA_NAME if is_large else None)
    for name in (FILE_NAME, DATA_NAME)[: 1 + is_large]:
        _sync(path / name)
    for name, data in files.items():
        write_file(path / name, data)


def _graph(model: ExportedModel) -> onnx_ir.Model:
    with torch.no_grad():
        return onnx_graph(_network(model), model.name)


def _network(model: ExportedModel) -> SimpleLLM:
    with torch.device("meta"):
        network = SimpleLLM(model.config)
    state = from_hub_state(model.tensors, network.state_dict(), model.config, model.source.source)
    network.load_state_dict(state, assign=True)
    return network.eval()


def _sync(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
