"""LoRA: frozen linear layers with trained low-rank adapters, applied to a model from outside.

Hu et al. 2021, "LoRA: low-rank adaptation of large language models". A layer computes
(W + s B A) x + b, where only A (R, C) and B (rows, R) are trained. Matrices that are fused along
the rows of W have an A and a B each.

Where no gradient is needed, a layer is the merged one, in float32: evaluation, sampling and saving
see a model without adapters.

Shapes: N tokens, C inputs, R rank, K adapted matrices of a layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simplellm.model.adapted_product import AdaptedProduct, AdapterRows, adapted_product
from simplellm.model.adapted_table import AdaptedHead, AdaptedTable
from simplellm.model.frozen_weights import Frozen, FrozenWeights, joined
from simplellm.model.kernels import dropout, prefers_torch
from simplellm.model.layers import Linear
from simplellm.model.transformer import SimpleLLM


@dataclass(frozen=True)
class Lora:
    """rank: R. alpha: s is alpha / R. dropout: share of the inputs of A set to zero.

    targets: names of the adapted matrices, as in `transformers`.
    """

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


class AdaptedLinear(nn.Module):
    """A frozen linear layer with adapters for some of the matrices that are fused in it.

    weight: W (out, C). Its state is that of a layer without adapters: W merged, and the bias.
    """

    high: Tensor  # W in the format of products
    lower: Tensor | None  # see frozen_weights.py
    bias: Tensor | None

    def __init__(self, base: Linear, lora: Lora, places: AdapterRows, weight: Frozen) -> None:
        super().__init__()
        self.lora = lora
        self.in_features, self.out_features = base.in_features, base.out_features
        self.places = places
        self.register_buffer("high", weight.high)
        self.register_buffer("lower", weight.lower)
        self.register_buffer("bias", None if base.bias is None else base.bias.detach())
        if places.adapted:
            n_rows = sum(places.sizes[i] for i in places.adapted)
            n_inner = len(places.adapted) * lora.rank
            self.lora_a = nn.Parameter(torch.empty(n_inner, base.in_features))
            self.lora_b = nn.Parameter(torch.zeros(n_rows, lora.rank))

    @torch.no_grad()
    def init_adapters(self, generator: torch.Generator) -> None:
        """A as in `peft` (Kaiming uniform with a = sqrt 5), B zero: the layer is as before."""
        limit = 1 / math.sqrt(self.in_features)
        for _, a, b in self.adapters():
            a.uniform_(-limit, limit, generator=generator)
            b.zero_()

    def adapters(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Of each adapted matrix its index, A (R, C) and B (rows, R), which share memory."""
        if self.places.adapted:
            yield from self.places.split(self.lora_a.detach(), self.lora_b.detach())

    @property
    def weight(self) -> Tensor:
        """The merged matrix W + s B A: a new tensor (out, C) in float32."""
        weight = joined(self.high, self.lower)
        for i, a, b in self.adapters():
            weight[self.places.rows_of(i)].addmm_(b, a, alpha=self.lora.scale)
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., out)."""
        if not torch.is_grad_enabled():
            return F.linear(x, self.weight, self.bias)
        x = x.to(self.high.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if not self.places.adapted:
            return F.linear(x, self.high, bias)
        dropped = dropout(x, self.lora.dropout, self.training)
        product = adapted_product if prefers_torch(x) else AdaptedProduct.apply
        return product(
            x, dropped, self.high, bias, self.lora_a, self.lora_b, self.lora.scale, self.places
        )

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self.weight
        if self.bias is not None:
            destination[f"{prefix}bias"] = self.bias


def adapt(
    model: SimpleLLM, lora: Lora, generator: torch.Generator, weights: FrozenWeights
) -> SimpleLLM:
    """Give the model these weights, and adapters for the matrices that `lora` names, in place.

    Only the adapters can be trained, and the rows of new tokens. The memory of `weights` is shared.
    """
    model.load_state_dict(weights.others, strict=False, assign=True)
    model.requires_grad_(False)
    model.splits_loss = True
    if weights.new_ids:
        adapt_tables(model, weights.new_ids)
    for number, block in enumerate(model.blocks):
        for path, layer in list(block.named_modules()):
            if not isinstance(layer, Linear):
                continue
            names = matrix_names(model, path)
            # The matrices of gpt2 that are fused here are one matrix there too: c_attn.
            sizes = layer.rows if len(names) > 1 else (layer.out_features,)
            adapted = tuple(i for i, name in enumerate(names) if name in lora.targets)
            weight = weights.matrices[f"blocks.{number}.{path}.weight"]
            adapted_layer = AdaptedLinear(layer, lora, AdapterRows(sizes, adapted), weight)
            adapted_layer.init_adapters(generator)
            parent, _, name = path.rpartition(".")
            setattr(block.get_submodule(parent), name, adapted_layer.train(layer.training))
    return model


def adapt_tables(model: SimpleLLM, new_ids: tuple[int, ...]) -> None:
    """Train the rows of these tokens in the embeddings and in the output table, in place."""
    tables = {"token_embedding": AdaptedTable, "head": AdaptedHead}
    for name, adapted in tables.items():
        if name in dict(model.named_children()):
            table = model.get_submodule(name).weight
            assert isinstance(table, Tensor)
            setattr(model, name, adapted(table.detach(), new_ids))


def adapted_tables(model: SimpleLLM) -> Iterator[tuple[str, AdaptedTable]]:
    """The tables that have trained rows, by name."""
    for name, module in model.named_children():
        if isinstance(module, AdaptedTable):
            yield name, module


def matrix_names(model: SimpleLLM, path: str) -> list[str]:
    """Names in `transformers` of the matrices fused in the layer `path` of a block."""
    hub_names = model.architecture.hub_names.block_modules[path]
    return [name.rpartition(".")[2] for name in hub_names]


def is_adapted(model: nn.Module) -> bool:
    return any(isinstance(module, AdaptedLinear) for module in model.modules())


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, AdaptedLinear]]:
    """The layers that have adapters, by name."""
    for name, module in model.named_modules():
        if isinstance(module, AdaptedLinear) and module.places.adapted:
            yield name, module


def trained_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """What checkpoints and averages of a training are about: the adapters, or else all weights."""
    named = dict(model.named_parameters())
    if not is_adapted(model):
        return named
    return {name: weight for name, weight in named.items() if weight.requires_grad}
