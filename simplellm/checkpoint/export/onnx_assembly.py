"""The ONNX graph of a network: one exported block is used for all of its blocks.

Inputs are input_ids, attention_mask, position_ids and past_key_values.N.key and .value; outputs are
logits and present.N.key and .value, as Optimum names them.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
import torch
from torch import nn

from simplellm.checkpoint.export.onnx_graph import CachedBlock, FirstPart, LastPart
from simplellm.checkpoint.export.onnx_parts import Argument, Part, finished, weight_value
from simplellm.config.model import ModelConfig
from simplellm.model.transformer import SimpleLLM

BATCH, SEQUENCE = "batch_size", "sequence_length"
PAST, TOTAL = "past_sequence_length", "total_sequence_length"
TOKENS = {0: BATCH, 1: SEQUENCE}
SCORES = {0: BATCH, 2: SEQUENCE, 3: TOTAL}
B, T, P = 2, 3, 4  # examples: sizes of 0 and 1 would become constants
KINDS = ("key", "value")


def onnx_graph(network: SimpleLLM, name: str) -> ir.Model:
    """The graph of `network` with its weights."""
    first, last = FirstPart(network), LastPart(network)
    blocks = [CachedBlock(block) for block in network.blocks]
    parts = first_part, block_part, last_part = _parts(first, blocks[0], last, network.config)
    known = [*network.named_parameters(), *first.named_buffers()]
    values = {id(tensor): weight_value(name, tensor) for name, tensor in known}

    inputs = [argument.value(name) for name, argument in _inputs().items()]
    nodes = [first_part.call(inputs, _weights(first, values))]
    x, *read_by_all = nodes[-1].outputs
    presents: list[ir.Value] = []
    for i, block in enumerate(blocks):
        past = [_cache(network.config, P, PAST).value(f"past_key_values.{i}.{k}") for k in KINDS]
        nodes.append(block_part.call([x, *past, *read_by_all], _weights(block, values)))
        x, *present = nodes[-1].outputs
        inputs += past
        presents += present
    nodes.append(last_part.call([x], _weights(last, values)))
    outputs = [*nodes[-1].outputs, *presents]
    weights = list(values.values())
    graph = ir.Graph(inputs, outputs, nodes=nodes, initializers=weights, name=name)
    return finished(graph, parts, _outputs(network.config))


def _parts(
    first: FirstPart, block: CachedBlock, last: LastPart, config: ModelConfig
) -> tuple[Part, Part, Part]:
    inputs = list(_inputs().values())
    x, mask, *rope = first(*(argument.example for argument in inputs))
    stream = Argument(x, TOKENS)
    past = [_cache(config, P, PAST) for _ in KINDS]
    read_by_all = [Argument(mask, SCORES), *(Argument(table, TOKENS) for table in rope)]
    return (
        Part.of("first", first, inputs),
        Part.of("block", block, [stream, *past, *read_by_all]),
        Part.of("last", last, [stream]),
    )


def _weights(module: nn.Module, values: Mapping[int, ir.Value]) -> dict[str, ir.Value]:
    """The values in the graph of the weights of a module, by their names in it."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return {name: values[id(tensor)] for name, tensor in tensors}


def _inputs() -> dict[str, Argument]:
    """The inputs of the graph without the cache."""
    return {
        "input_ids": Argument(torch.zeros(B, T, dtype=torch.int64), TOKENS),
        "attention_mask": Argument(torch.ones(B, P + T, dtype=torch.int64), {0: BATCH, 1: TOTAL}),
        "position_ids": Argument(torch.zeros(B, T, dtype=torch.int64), TOKENS),
    }


def _outputs(config: ModelConfig) -> dict[str, Argument]:
    logits = Argument(torch.zeros(B, T, config.vocab_size), TOKENS)
    names = [f"present.{i}.{kind}" for i in range(config.n_layer) for kind in KINDS]
    return {"logits": logits, **{name: _cache(config, P + T, TOTAL) for name in names}}


def _cache(config: ModelConfig, length: int, name: str) -> Argument:
    """Keys or values of a block (B, G, length, D); name: of the dimension of the length."""
    return Argument(torch.zeros(B, config.kv_heads, length, config.head_size), {0: BATCH, 2: name})
