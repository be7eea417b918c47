"""Modules as ONNX functions, by torch's dynamo exporter, and calls of them that become plain nodes.

The exporter takes over a second for each block of a model (measured: 52 s for the 30 blocks of
SmolLM2-135M), so that a block is exported once, as a function whose weights are inputs.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
import torch
from onnx_ir.passes import Sequential, common
from onnxscript import optimizer
from torch import Tensor, nn

DOMAIN = "simplellm"  # of the functions, none of which are in a finished graph
IR_VERSION = 10  # of the format; ONNX Runtime 1.18 and later read it


@dataclass(frozen=True)
class Argument:
    """example: a tensor of its own, or several would become one input. dynamic: names of the
    dimensions whose size may change.
    """

    example: Tensor
    dynamic: Mapping[int, str]

    def value(self, name: str) -> ir.Value:
        """An input or output of a graph with this type and shape."""
        sizes = [self.dynamic.get(i, size) for i, size in enumerate(self.example.shape)]
        type = ir.TensorType(ir.tensor(self.example[:0].numpy()).dtype)
        return ir.Value(name=name, shape=ir.Shape(sizes), type=type)


@dataclass(frozen=True)
class Part:
    """A module as an ONNX function of its inputs, and then of `weights`, by their names in it."""

    function: ir.Function
    weights: tuple[str, ...]

    @classmethod
    def of(cls, name: str, module: nn.Module, arguments: Sequence[Argument]) -> Part:
        """arguments: of `module.forward`, which takes them as one `*inputs`."""
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                tuple(argument.example for argument in arguments),
                dynamo=True,
                verbose=False,
                optimize=False,  # once at the end, and without the slow rewriting of patterns
                dynamic_shapes=(tuple(dict(argument.dynamic) for argument in arguments),),
            )
        assert program is not None
        optimizer.inline(program.model)
        common.RemoveUnusedNodesPass()(program.model)
        graph = program.model.graph
        weights = tuple(graph.initializers)
        for weight in weights:
            value = graph.initializers.pop(weight)
            value.const_value = None
            graph.inputs.append(value)
        return cls(ir.Function(DOMAIN, name, graph=graph, attributes=()), weights)

    def call(self, inputs: Sequence[ir.Value], weights: Mapping[str, ir.Value]) -> ir.Node:
        """A node with the outputs of the function. weights: values for those of this part."""
        return ir.node(
            self.function.name,
            [*inputs, *(weights[name] for name in self.weights)],
            domain=DOMAIN,
            num_outputs=len(self.function.outputs),
        )


def weight_value(name: str, tensor: Tensor) -> ir.Value:
    """A weight of a graph, with the memory of `tensor`."""
    content = ir.tensor(tensor.detach().numpy(), name=name)
    type = ir.TensorType(content.dtype)
    return ir.Value(name=name, shape=content.shape, type=type, const_value=content)


def finished(graph: ir.Graph, parts: Sequence[Part], outputs: Mapping[str, Argument]) -> ir.Model:
    """The model of `graph`, whose calls of parts are replaced by the nodes of the parts.

    outputs: names, types and shapes of what it computes, in the order of the graph.
    """
    functions = [part.function for part in parts]
    graph.opset_imports.update(functions[0].opset_imports)
    model = ir.Model(graph, ir_version=IR_VERSION, producer_name="SimpleLLM", functions=functions)
    optimizer.inline(model)
    optimizer.fold_constants(model)
    Sequential(
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),  # the sizes of shapes, which all blocks have
        common.CommonSubexpressionEliminationPass(),
    )(model)
    for node in graph.all_nodes():
        node.metadata_props.clear()  # stack traces with paths of this machine
    for value, (name, argument) in zip(graph.outputs, outputs.items(), strict=True):
        like = argument.value(name)
        value.name, value.shape, value.type = like.name, like.shape, like.type
    return model


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
