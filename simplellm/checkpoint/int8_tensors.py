"""Weights in 8 bits: each row of a matrix as integers from -127 to 127, and a scale for the row.

In a safetensors file the integers have the name of the matrix, and the scales have that name with
SCALE_SUFFIX. Other tensors are stored as they are. config.json names the method.
"""

from __future__ import annotations

import torch
from torch import Tensor

from simplellm.checkpoint.tensors import State

METHOD = "simplellm-int8"  # quant_method in the quantization_config of config.json
SCALE_SUFFIX = ".scale"
LARGEST = 127


def to_int8(state: State) -> State:
    """The tensors of a file for the weights in `state`, by the names of `transformers`."""
    stored: State = {}
    for name, tensor in state.items():
        if tensor.dim() == 2:
            stored[name], stored[name + SCALE_SUFFIX] = _rows_to_int8(tensor.float())
        else:
            stored[name] = tensor
    return stored


def _rows_to_int8(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Integers (rows, columns), and the scales (rows,) to multiply them by."""
    scales = matrix.abs().amax(dim=1) / LARGEST
    divisors = torch.where(scales > 0, scales, 1.0)  # a row of zeros stays one
    return (matrix / divisors[:, None]).round().to(torch.int8), scales


def from_int8(integers: Tensor, scales: Tensor) -> Tensor:
    """The matrix in float32."""
    return integers.float().mul_(scales[:, None])
