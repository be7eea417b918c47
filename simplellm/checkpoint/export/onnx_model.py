"""The export format `onnx`: a model with a KV cache for ONNX Runtime, by torch's dynamo exporter.

Inputs are input_ids, attention_mask, position_ids and past_key_values.N.key and .value; outputs are
logits and present.N.key and .value, as Optimum names them. A folder also has the config and the
tokenizer as files; a single file has them in its metadata.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx_ir
import onnxscript  # noqa: F401  (torch's exporter needs it: the error for a missing one is here)
import torch
from torch import Tensor

from simplellm.checkpoint.export.exported_model import ExportedModel
from simplellm.checkpoint.export.onnx_graph import CachedModel
from simplellm.checkpoint.hugging_face import from_hub_state
from simplellm.checkpoint.step_folder import description_files
from simplellm.config.model import ModelConfig
from simplellm.errors import CheckpointError
from simplellm.model.transformer import SimpleLLM
from simplellm.storage.files import write_file

MAX_FILE_BYTES = 2_000_000_000  # protobuf allows 2 GiB; the graph needs some of it
FILE_NAME, DATA_NAME = "model.onnx", "model.onnx_data"
BATCH, SEQUENCE = "batch_size", "sequence_length"
PAST, TOTAL = "past_sequence_length", "total_sequence_length"
EXAMPLE = (2, 3, 4)  # batch, new and past tokens: sizes of 0 and 1 would become constants


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
    """The graph with its weights and without names of local files."""
    cached = CachedModel(_network(model))
    n_layer = model.config.n_layer
    tensors = [f"{i}.{kind}" for i in range(n_layer) for kind in ("key", "value")]
    tokens = {0: BATCH, 1: SEQUENCE}
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            cached,
            _example(model.config),
            dynamo=True,
            verbose=False,
            input_names=["input_ids", "attention_mask", "position_ids"]
            + [f"past_key_values.{name}" for name in tensors],
            output_names=["logits"] + [f"present.{name}" for name in tensors],
            dynamic_shapes=(
                tokens,
                {0: BATCH, 1: TOTAL},
                tokens,
                [{0: BATCH, 2: PAST} for _ in tensors],
            ),  # fmt: skip
        )
    assert program is not None
    graph = program.model
    graph.producer_name = "SimpleLLM"
    graph.graph.name = model.name
    for node in graph.graph.all_nodes():
        node.metadata_props.clear()  # stack traces with paths of this machine
    return graph


def _example(config: ModelConfig) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Arguments of `CachedModel.forward`: each a tensor of its own, or they would become one."""
    B, T, P = EXAMPLE
    ids, positions = (torch.zeros(B, T, dtype=torch.int64) for _ in range(2))
    mask = torch.ones(B, P + T, dtype=torch.int64)
    shape = (B, config.kv_heads, P, config.head_size)
    return ids, mask, positions, [torch.zeros(shape) for _ in range(2 * config.n_layer)]


def _network(model: ExportedModel) -> SimpleLLM:
    with torch.device("meta"):
        network = SimpleLLM(model.config)
    state = from_hub_state(model.tensors, network.state_dict(), model.config, model.source.source)
    network.load_state_dict(state, assign=True)
    return network.eval()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of the exporter, which name its own modules."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _sync(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
