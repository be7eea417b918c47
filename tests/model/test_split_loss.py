"""The loss in parts: value and gradients of the whole, while only the logits of a part exist."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from model.test_lora import IDS, LLAMA, LORA, TARGETS, random
from torch import Tensor

from simplellm.model import losses, split_loss
from simplellm.model.frozen_weights import FrozenWeights
from simplellm.model.lora import adapt, trained_weights
from simplellm.model.transformer import SimpleLLM

WEIGHTS = (torch.arange(32) % 3).float().view(2, 16)  # every third counts nothing
NEW_IDS = (7, 299)


def with_new_tokens(is_tied: bool = True) -> SimpleLLM:
    """A model whose adapters and rows of NEW_IDS have random numbers; IDS has one of them."""
    base = random(replace(LLAMA, tie_embeddings=is_tied))
    generator = torch.Generator().manual_seed(2)
    weights = FrozenWeights(copy.deepcopy(base).state_dict(), torch.float32, NEW_IDS)
    model = adapt(SimpleLLM(base.config).eval(), LORA, generator, weights)
    for weight in trained_weights(model).values():
        weight.data.normal_(0, 0.1, generator=generator)
    return model


def loss_and_gradients(model: SimpleLLM, *options: object) -> list[Tensor]:
    model.zero_grad()
    loss = model.loss(IDS, TARGETS, *options)  # type: ignore[arg-type]
    (3 * loss).backward()
    gradients = [weight.grad for weight in trained_weights(model).values()]
    return [loss.detach(), *(gradient.clone() for gradient in gradients if gradient is not None)]


@pytest.mark.parametrize("is_tied", [True, False])
def test_the_loss_in_parts_is_the_whole_loss(
    is_tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split_loss, "PART_LOGITS", 5 * LLAMA.vocab_size)
    model = with_new_tokens(is_tied)
    for options in ((0.1, 0.0, None), (0.1, 2.0, None), (0.0, 0.0, WEIGHTS), (0.1, 2.0, WEIGHTS)):
        model.splits_loss = False
        whole = loss_and_gradients(model, *options)
        model.splits_loss = True
        parts = loss_and_gradients(model, *options)
        assert len(parts) == 1 + len(trained_weights(model))
        torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-4)


def test_logits_of_one_part_exist_at_a_time_and_of_targets_that_count_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(split_loss, "PART_LOGITS", 5 * LLAMA.vocab_size)
    rows: list[int] = []
    of_part = losses.LossTerms.of_part

    def recorded(terms: losses.LossTerms, logits: Tensor, part: slice) -> Tensor:
        rows.append(len(logits))
        return of_part(terms, logits, part)

    monkeypatch.setattr(losses.LossTerms, "of_part", recorded)
    model = with_new_tokens()
    model.loss(IDS, TARGETS, weights=WEIGHTS).backward()
    assert max(rows) == 5 and sum(rows) == int((WEIGHTS > 0).sum())


def test_a_batch_without_counted_targets_has_no_loss_and_no_gradient() -> None:
    loss, *gradients = loss_and_gradients(with_new_tokens(), 0.0, 0.0, torch.zeros(2, 16))
    assert loss == 0 and not any(gradient.any() for gradient in gradients)
