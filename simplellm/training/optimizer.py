"""Optimizers: Muon for the matrices of the blocks, AdamW for the rest, and averaged weights."""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from simplellm.config.training import TrainConfig
from simplellm.model.transformer import Linear, SimpleLLM, modern_embedding_std

MUON_MOMENTUM = 0.95  # Jordan et al. 2024, "Muon: an optimizer for hidden layers"
# Each step's odd quintic is the one nearest to 1 on what the step before leaves of [0.02, 1] (Amsel et al. 2025,
# "The Polar Express"): after three, singular values from 0.02 of the matrix's norm on are within 1 +- 0.1.
NEWTON_SCHULZ_COEFFICIENTS = (
    (7.711, -22.1138, 16.2487),
    (3.2153, -2.4112, 0.5013),
    (2.2183, -1.594, 0.4107),
)
ROUNDING_MARGIN = (
    1.01  # matrices begin this much smaller, so that rounding takes none past the bound
)
ADAMW_STATE, MUON_STATE = ("step", "exp_avg", "exp_avg_sq"), ("momentum",)


class Matrix(NamedTuple):
    """A weight matrix: the rows of each matrix that is fused into it, and the scale of its updates."""

    rows: Sequence[int]
    scale: float


def block_matrices(model: SimpleLLM) -> dict[str, Matrix]:
    """The weight matrices of the blocks by name.

    What is added to the residual stream is scaled to the size of the embeddings in it.
    """
    residual_scale = modern_embedding_std(model.config)
    return {
        f"blocks.{name}.weight": Matrix(module.rows, residual_scale if module.is_residual else 1.0)
        for name, module in model.blocks.named_modules()
        if isinstance(module, Linear)
    }


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose update is orthogonalised: each matrix moves by about the same in every direction.

    Matrices fused into one parameter are orthogonalised apart, and each update is on the matrix's own
    scale. Matrices of one shape are done as one batch: that is what makes it cheap.
    """

    def __init__(
        self, params: list[Tensor], matrices: list[Matrix], lr: float, weight_decay: float
    ) -> None:
        super().__init__([{"params": params}], {"lr": lr, "weight_decay": weight_decay})
        self.matrices = matrices

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        (group,) = self.param_groups
        weights = [weight for weight in group["params"] if weight.grad is not None]
        updates = [self._momentum(weight) for weight in weights]
        pieces = [
            piece
            for update, matrix in zip(updates, self.matrices, strict=True)
            for piece in update.split(list(matrix.rows))
        ]
        orthogonalize_all(pieces)
        torch._foreach_mul_(updates, [matrix.scale for matrix in self.matrices])
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(weights, updates, alpha=-group["lr"])

    def _momentum(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        gradient = weight.grad
        assert gradient is not None
        state["momentum"].lerp_(gradient, 1 - MUON_MOMENTUM)
        return gradient.lerp(state["momentum"], MUON_MOMENTUM)


def orthogonalize_all(matrices: list[Tensor]) -> None:
    """Replace each matrix (rows, columns) in place by its nearest orthogonal one, times sqrt(max(1, rows / columns))."""
    by_shape: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
    for matrix in matrices:
        wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.t()
        by_shape[wide.shape[0], wide.shape[1]].append(matrix)
    for (short, _), group in by_shape.items():
        stacked = torch.stack(
            [matrix if matrix.shape[0] == short else matrix.t() for matrix in group]
        )
        for matrix, result in zip(group, newton_schulz(stacked), strict=True):
            scale = math.sqrt(max(1.0, matrix.shape[0] / matrix.shape[1]))
            matrix.copy_(result if matrix.shape[0] == short else result.t()).mul_(scale)


def newton_schulz(matrices: Tensor) -> Tensor:
    """Singular values of each (N, rows <= columns) pushed towards 1 by a few quintic steps, in bfloat16.

    The smallest, which are mostly noise, stay small.
    """
    x = (matrices / (matrices.norm(dim=(-2, -1), keepdim=True) * ROUNDING_MARGIN + 1e-7)).bfloat16()
    for a, b, c in NEWTON_SCHULZ_COEFFICIENTS:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.to(matrices.dtype)


class Optimizer:
    """The optimizers of one model, moved together: one `step`, one rate factor, one state."""

    def __init__(
        self,
        model: SimpleLLM,
        config: TrainConfig,
        compositions: Mapping[str, Tensor] | None = None,
    ) -> None:
        """`compositions`: by name the matrix A of a table that is trained as A R (see composition.py)."""
        named: dict[str, Tensor] = {
            name: weight for name, weight in model.named_parameters() if weight.requires_grad
        }
        tables = {name: matrix for name, matrix in (compositions or {}).items() if name in named}
        self._composed = [
            _ComposedTable(name, named[name], matrix) for name, matrix in tables.items()
        ]
        named |= {table.name: table.raw for table in self._composed}
        self._names = {id(weight): name for name, weight in named.items()}
        matrices = {
            name: matrix
            for name, matrix in block_matrices(model).items()
            if name in named and config.optimizer == "muon"
        }
        rest = [weight for name, weight in named.items() if name not in matrices]
        self._optimizers: list[torch.optim.Optimizer] = [_adamw(rest, config)]
        if matrices:
            weights = [named[name] for name in matrices]
            self._optimizers.append(
                Muon(
                    weights, list(matrices.values()), config.muon_learning_rate, config.weight_decay
                )
            )
        self._peak_rates = [group["lr"] for group in self.groups]

    @property
    def groups(self) -> list[dict]:
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]

    @property
    def weights(self) -> list[Tensor]:
        """What is optimized: the model's parameters, with the raw table in place of a composed one."""
        return [weight for group in self.groups for weight in group["params"]]

    def set_rate(self, factor: float) -> None:
        """Let every group learn at `factor` times its peak rate."""
        for group, peak in zip(self.groups, self._peak_rates, strict=True):
            group["lr"] = peak * factor

    def step(self, scaler: torch.amp.GradScaler) -> None:
        for optimizer in self._optimizers:
            scaler.step(optimizer)
        for table in self._composed:
            table.compose()

    def unscale(self, scaler: torch.amp.GradScaler) -> None:
        """Gradients of `weights`, in their true size."""
        for table in self._composed:
            table.pull_back_gradient()
        for optimizer in self._optimizers:
            scaler.unscale_(optimizer)

    def gradient_norms(self) -> dict[str, float]:
        """The norm of the gradients of each block, and of each table and norm outside the blocks, by name."""
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
        """The inverse of `state`. ValueError names what is not the state of these weights."""
        self._check_state(state)
        by_name: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for path, value in state.items():
            name, key = path.rsplit("/", 1)
            by_name[name][key] = value
        for table in self._composed:
            table.raw.data.copy_(by_name[table.name].pop("raw"))
        for optimizer in self._optimizers:
            for weight in (
                weight for group in optimizer.param_groups for weight in group["params"]
            ):
                saved = by_name.get(self._names[id(weight)])
                if saved:
                    optimizer.state[weight] = {
                        key: value.to(weight.device, copy=key == "step")
                        for key, value in saved.items()
                    }

    def _check_state(self, state: Mapping[str, Tensor]) -> None:
        """All that `state` gives after a step, or before the first one; each tensor of its weight's shape."""
        shapes = {f"{table.name}/raw": table.raw.shape for table in self._composed}
        if state.keys() != shapes.keys():
            for optimizer in self._optimizers:
                keys = MUON_STATE if isinstance(optimizer, Muon) else ADAMW_STATE
                for weight in (
                    weight for group in optimizer.param_groups for weight in group["params"]
                ):
                    name = self._names[id(weight)]
                    shapes |= {
                        f"{name}/{key}": torch.Size() if key == "step" else weight.shape
                        for key in keys
                    }
        for path in sorted(shapes.keys() | state.keys()):
            if path not in state or path not in shapes or state[path].shape != shapes[path]:
                raise ValueError(
                    f"{path[:100]} of the optimizer is missing, not its own or of another shape"
                )


def _layer_of(name: str) -> str:
    """`blocks.03` (so that sorting is counting) for `blocks.3.attention.proj.weight`, `final_norm` for `final_norm.weight`."""
    first, second, *_ = name.split(".")
    return f"blocks.{int(second):02}" if first == "blocks" else first


class _ComposedTable:
    """A table of the model that is A R: the optimizer moves R, the model sees A R."""

    def __init__(self, name: str, weight: Tensor, matrix: Tensor) -> None:
        self.name, self.weight = name, weight
        self.raw = torch.nn.Parameter(weight.detach().clone())
        is_sparse = (
            weight.device.type == "cpu"
        )  # elsewhere: MPS lacks the product in some torch, CUDA's may vary by run
        self._matrix = matrix if is_sparse else matrix.to_dense().to(weight.device)
        self._transposed = self._matrix.t().coalesce() if is_sparse else self._matrix.t()
        self._product = torch.sparse.mm if is_sparse else torch.mm
        self.compose()

    @torch.no_grad()
    def compose(self) -> None:
        self.weight.copy_(self._product(self._matrix, self.raw))

    def pull_back_gradient(self) -> None:
        gradient = self.weight.grad
        assert gradient is not None
        self.raw.grad = self._product(self._transposed, gradient)


def _adamw(weights: list[Tensor], config: TrainConfig) -> torch.optim.AdamW:
    """Matrices decay towards zero, vectors (norms, biases) do not."""
    groups = [
        {
            "params": [weight for weight in weights if weight.dim() >= 2],
            "weight_decay": config.weight_decay,
        },
        {"params": [weight for weight in weights if weight.dim() < 2], "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=1e-10, fused=True)


class AveragedWeights:
    """An exponential moving average of the weights: what is evaluated, saved and talked to."""

    def __init__(self, model: SimpleLLM, decay: float) -> None:
        self._live: list[Tensor] = list(model.parameters())
        self._average = [weight.detach().clone() for weight in self._live] if decay else self._live
        self.decay = decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step`; the memory grows with the steps, so that the start is soon forgotten."""
        if self.decay:
            decay = min(self.decay, (step + 1) / (step + 10))
            torch._foreach_lerp_(
                self._average, [weight.detach() for weight in self._live], 1 - decay
            )

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the model holds the averaged weights, and this object the live ones."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def kept_aside(self) -> list[Tensor]:
        """The weights that the model does not hold: the average, or the live ones within `in_place`."""
        return self._average if self.decay else []

    @torch.no_grad()
    def _exchange(self) -> None:
        if self.decay:
            for live, average in zip(self._live, self._average, strict=True):
                live.data, average.data = average.data, live.data

    @torch.no_grad()
    def start_from(self, average: list[Tensor]) -> None:
        for mine, saved in zip(self._average, average, strict=True):
            mine.copy_(saved)
