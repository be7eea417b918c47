"""Trained rows of a frozen table: they alone change, and each model keeps its own."""

from __future__ import annotations

import copy

import pytest
import torch
from model.test_lora import IDS, LLAMA, LORA, TARGETS, random
from model.test_split_loss import NEW_IDS, with_new_tokens

from simplellm.model.frozen_weights import FrozenWeights
from simplellm.model.lora import adapt
from simplellm.model.transformer import SimpleLLM


@pytest.mark.parametrize("is_tied", [True, False])
def test_the_merged_model_has_the_trained_rows(is_tied: bool) -> None:
    model = with_new_tokens(is_tied)
    merged = SimpleLLM(model.config)
    merged.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = merged.eval()(IDS)
        assert torch.equal(model(IDS), expected)
    torch.testing.assert_close(model(IDS), expected, atol=1e-4, rtol=0)
    rows = merged.token_embedding.weight[list(NEW_IDS)]
    assert torch.equal(rows, model.get_parameter("token_embedding.new_rows"))


def test_a_step_changes_no_other_row() -> None:
    model = with_new_tokens()
    before = model.state_dict()["token_embedding.weight"]
    optimizer = torch.optim.SGD([w for w in model.parameters() if w.requires_grad], lr=1.0)
    model.loss(IDS, TARGETS).backward()
    optimizer.step()
    after = model.state_dict()["token_embedding.weight"]
    changed = (after != before).any(1).nonzero().flatten()
    assert changed.tolist() == list(NEW_IDS)


def test_models_that_share_a_frozen_table_keep_their_own_rows() -> None:
    base = random()
    weights = FrozenWeights(copy.deepcopy(base).state_dict(), torch.float32, NEW_IDS)
    first, second = (
        adapt(SimpleLLM(LLAMA).eval(), LORA, torch.Generator().manual_seed(0), weights)
        for _ in range(2)
    )
    first.get_parameter("token_embedding.new_rows").data.zero_()
    with torch.no_grad():
        assert not torch.equal(first(IDS), base(IDS))
        assert torch.equal(second(IDS), base(IDS))
