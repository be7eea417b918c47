"""Compilation of training steps is switched on and off; it changes no number elsewhere."""

from __future__ import annotations

import pytest
import torch

from simplellm.model.transformer import SimpleLLM
from simplellm.training.execution import compile_training, is_compiled


@pytest.mark.parametrize(
    ("device", "function"),
    [("cpu", "TransformerBlock.forward"), ("meta", "SimpleLLM.loss")],  # meta stands for a GPU
)
def test_a_cpu_compiles_a_block_and_a_gpu_the_whole_loss(
    tiny_model: SimpleLLM, monkeypatch: pytest.MonkeyPatch, device: str, function: str
) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(
        torch, "compile", lambda function: compiled.append(function.__qualname__) or function
    )
    model = tiny_model.to(device)
    assert not is_compiled(model)
    compile_training(model)
    assert compiled == [function] and is_compiled(model)
    compile_training(model, enabled=False)
    assert not is_compiled(model) and model.loss.__func__ is SimpleLLM.loss
