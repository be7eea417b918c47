"""How a training step executes the model: eager or compiled, activations kept or recomputed.

Both are applied to a model from outside, by `model.run_block` and `model.loss`; evaluation and
generation are never affected. Neither changes the computed numbers, dropout masks included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from simplellm import device as devices
from simplellm.model.block import TransformerBlock
from simplellm.model.transformer import SimpleLLM


class BlockRunner:
    """Runs a block of the model: in a training step as the attributes say, otherwise plainly.

    compiled: the compiled function of a block, or None.
    recompute_contexts: with gradient checkpointing the `context_fn` of torch.utils.checkpoint,
    which keeps a block's input only and runs the block again for its gradient; None without.
    """

    def __init__(self) -> None:
        self.compiled: Callable[..., Tensor] | None = None
        self.recompute_contexts: Callable[[], Any] | None = None

    def __call__(self, block: TransformerBlock, x: Tensor, *context: Any) -> Tensor:
        """The block's output (B, T, C) for its input `x` (B, T, C)."""
        if not torch.is_grad_enabled():
            return block(x, *context)
        run = self.compiled or TransformerBlock.__call__
        if self.recompute_contexts is None:
            return run(block, x, *context)
        context_fn = self.recompute_contexts
        return checkpoint(run, block, x, *context, use_reentrant=False, context_fn=context_fn)


def compile_training(model: SimpleLLM, enabled: bool = True) -> None:
    """Compile training steps with torch.compile; `enabled=False` returns to eager mode.

    Compilation happens in the first step, which raises an exception where it fails. On a GPU the
    whole loss is compiled. On a CPU one block is compiled and used for all blocks: a quarter of the
    time to compile, for four fifths of the gain; the operations around the blocks have kernels of
    their own.
    """
    if model.token_embedding.weight.device.type == "cpu":
        _runner(model).compiled = torch.compile(TransformerBlock.forward) if enabled else None
    elif enabled:
        model.loss = torch.compile(model.loss)  # type: ignore[method-assign]
    else:
        model.__dict__.pop("loss", None)


def is_compiled(model: SimpleLLM) -> bool:
    return _runner(model).compiled is not None or "loss" in model.__dict__


def checkpoint_gradients(model: SimpleLLM) -> None:
    """Recompute activations in the backward pass: less memory, more time."""
    device = model.token_embedding.weight.device
    _runner(model).recompute_contexts = devices.recompute_contexts(device)


def _runner(model: SimpleLLM) -> BlockRunner:
    if not isinstance(model.run_block, BlockRunner):
        model.run_block = BlockRunner()
    return model.run_block
