"""The optimizers of one model, stepped together: Muon for matrices, AdamW for the other weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from simplellm.config.training import TrainConfig
from simplellm.model.transformer import SimpleLLM
from simplellm.training.composed_embedding import ComposedTable
from simplellm.training.muon import Muon, block_matrices

ADAMW_STATE = ("step", "exp_avg", "exp_avg_sq")
MUON_STATE = ("momentum",)
ADAMW_EPSILON = 1e-10


class Optimizer:
    """All optimizers of a model behind one `step`, one rate factor and one state.

    compositions: by the name of a table its matrix A; the table is trained as A R, see
    composed_embedding.py.
    """

    def __init__(
        self,
        model: SimpleLLM,
        config: TrainConfig,
        compositions: Mapping[str, Tensor] | None = None,
    ) -> None:
        named: dict[str, Tensor] = {
            name: weight for name, weight in model.named_parameters() if weight.requires_grad
        }
        self._composed = [
            ComposedTable(name, named[name], matrix)
            for name, matrix in (compositions or {}).items()
            if name in named
        ]
        named |= {table.name: table.raw for table in self._composed}
        self._names = {id(weight): name for name, weight in named.items()}
        self._optimizers = _optimizers(model, config, named)
        self._peak_rates = [group["lr"] for group in self.groups]

    @property
    def groups(self) -> list[dict]:
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]

    @property
    def weights(self) -> list[Tensor]:
        """The trained parameters: those of the model, with R in place of a composed table."""
        return [weight for group in self.groups for weight in group["params"]]

    def set_rate(self, factor: float) -> None:
        """Set the learning rate of every group to `factor` times its peak."""
        for group, peak in zip(self.groups, self._peak_rates, strict=True):
            group["lr"] = peak * factor

    def step(self, scaler: torch.amp.GradScaler) -> None:
        for optimizer in self._optimizers:
            scaler.step(optimizer)
        for table in self._composed:
            table.compose()

    def unscale(self, scaler: torch.amp.GradScaler) -> None:
        """Undo the loss scaling: afterwards `weights` have their true gradients."""
        for table in self._composed:
            table.pull_back_gradient()
        for optimizer in self._optimizers:
            scaler.unscale_(optimizer)

    def gradient_norms(self) -> dict[str, float]:
        """The gradient norm of each block, and of each table and norm outside the blocks."""
        by_layer: dict[str, list[Tensor]] = defaultdict(list)
        for weight in self.weights:
            if weight.grad is not None:
                by_layer[_layer_of(self._names[id(weight)])].append(weight.grad)
        layers = sorted(by_layer)
        norms = torch.stack([torch.nn.utils.get_total_norm(by_layer[layer]) for layer in layers])
        return dict(zip(layers, norms.tolist(), strict=True))

    def zero_grad(self) -> None:
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        for table in self._composed:
            table.weight.grad = None

    def state(self) -> dict[str, Tensor]:
        """All state as tensors, by `parameter/key`."""
        raw_tables = {f"{table.name}/raw": table.raw.detach() for table in self._composed}
        return raw_tables | {
            f"{self._names[id(weight)]}/{key}": value
            for optimizer in self._optimizers
            for weight, state in optimizer.state.items()
            for key, value in state.items()
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`. ValueError names a tensor that does not fit these weights."""
        self._check_state(state)
        by_name: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for path, value in state.items():
            name, key = path.rsplit("/", 1)
            by_name[name][key] = value
        for table in self._composed:
            table.raw.data.copy_(by_name[table.name].pop("raw"))
        for optimizer, weight in self._owners():
            saved = by_name.get(self._names[id(weight)])
            if saved:
                optimizer.state[weight] = {
                    key: value.to(weight.device, copy=key == "step") for key, value in saved.items()
                }

    def _check_state(self, state: Mapping[str, Tensor]) -> None:
        """Require exactly the tensors that `state` returns before the first step or after one."""
        shapes = {f"{table.name}/raw": table.raw.shape for table in self._composed}
        if state.keys() != shapes.keys():
            for optimizer, weight in self._owners():
                for key in MUON_STATE if isinstance(optimizer, Muon) else ADAMW_STATE:
                    shape = torch.Size() if key == "step" else weight.shape
                    shapes[f"{self._names[id(weight)]}/{key}"] = shape
        for path in sorted(shapes.keys() | state.keys()):
            if path not in state or path not in shapes or state[path].shape != shapes[path]:
                raise ValueError(
                    f"{path[:100]} of the optimizer is missing, unknown or of another shape"
                )

    def _owners(self) -> Iterator[tuple[torch.optim.Optimizer, Tensor]]:
        """Each weight with the optimizer that updates it."""
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                yield from ((optimizer, weight) for weight in group["params"])


def _optimizers(
    model: SimpleLLM, config: TrainConfig, named: Mapping[str, Tensor]
) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon where the config has it and there are trained matrices."""
    matrices = {
        name: matrix
        for name, matrix in block_matrices(model).items()
        if name in named and config.optimizer == "muon"
    }
    adamw = _adamw([weight for name, weight in named.items() if name not in matrices], config)
    if not matrices:
        return [adamw]
    weights = [named[name] for name in matrices]
    rate = config.muon_learning_rate
    return [adamw, Muon(weights, list(matrices.values()), rate, config.weight_decay)]


def _adamw(weights: list[Tensor], config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices, and none on vectors (norms, biases)."""
    matrices = [weight for weight in weights if weight.dim() >= 2]
    vectors = [weight for weight in weights if weight.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=betas, eps=ADAMW_EPSILON, fused=True
    )


def _layer_of(name: str) -> str:
    """`blocks.03` for `blocks.3.attention.proj.weight`, `final_norm` for `final_norm.weight`.

    Two digits make sorting by name sort by number.
    """
    first, second, *_ = name.split(".")
    return f"blocks.{int(second):02}" if first == "blocks" else first
