"""Several documents in one block: no document sees another, and each is as if it stood alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from simplellm.config.model import ModelConfig
from simplellm.model.documents import positions_in, visible_in
from simplellm.model.transformer import SimpleLLM
from simplellm.training.execution import checkpoint_gradients, compile_training

SHAPES = {
    "modern": {"architecture": "modern"},
    "modern-gqa": {"architecture": "modern", "n_kv_head": 1},
    "gpt2": {"architecture": "gpt2"},
}
# Two blocks of documents with 5, 9 and 2 tokens, and with 1, 11 and 4.
DOCUMENTS = torch.tensor([[0] * 5 + [1] * 9 + [2] * 2, [0] + [1] * 11 + [2] * 4])
SECOND = DOCUMENTS == 1  # (B, T)


def build(shape: str, dropout: float = 0.0) -> SimpleLLM:
    """A model with weights so large that every part of it shows in the logits."""
    config = ModelConfig(
        n_layer=2, n_head=2, n_embd=32, block_size=16, vocab_size=300, dropout=dropout,
        **SHAPES[shape],
    )  # fmt: skip
    model, generator = SimpleLLM(config), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1.0 if "norm.weight" in name else 0.0, 0.2, generator=generator)
    return model


def random_ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(300, shape, generator=torch.Generator().manual_seed(seed))


def logits(model: SimpleLLM, ids: Tensor, documents: Tensor | None, gradients: bool) -> Tensor:
    """With gradients the model uses its own kernels for the CPU, otherwise those of torch."""
    with torch.set_grad_enabled(gradients):
        return model.logits(model.hidden(ids, documents=documents)).detach()


def test_positions_restart_and_nothing_sees_another_document() -> None:
    assert positions_in(DOCUMENTS[:1]).tolist() == [[*range(5), *range(9), 0, 1]]
    visible = visible_in(DOCUMENTS)
    for block, row in ((block, row) for block in range(2) for row in range(16)):
        seen = [
            column <= row and bool(DOCUMENTS[block, column] == DOCUMENTS[block, row])
            for column in range(16)
        ]
        assert visible[block, 0, row].tolist() == seen


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_changing_one_document_changes_no_logit_of_its_neighbours(
    shape: str, gradients: bool
) -> None:
    model, ids = build(shape), random_ids(2, 16)
    changed = torch.where(SECOND, (ids + 1) % 300, ids)
    before, after = (logits(model, x, DOCUMENTS, gradients) for x in (ids, changed))
    assert torch.equal(before[~SECOND], after[~SECOND])
    assert (before[SECOND] - after[SECOND]).abs().max() > 0.1


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_packed_document_has_the_logits_that_it_has_alone(shape: str, gradients: bool) -> None:
    model, ids = build(shape), random_ids(2, 16)
    packed = logits(model, ids, DOCUMENTS, gradients)
    for block in range(2):
        for number in range(3):
            rows = DOCUMENTS[block] == number
            alone = logits(model, ids[block, rows][None], None, gradients)[0]
            torch.testing.assert_close(packed[block, rows], alone, atol=2e-5, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_of_packed_documents_are_those_of_torch_itself(
    shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, weights = random_ids(2, 17), (random_ids(2, 16, seed=3) % 3 / 2).float()

    def gradients() -> list[Tensor]:
        model = build(shape)
        model.loss(ids[:, :-1], ids[:, 1:], weights=weights, documents=DOCUMENTS).backward()
        return [weight.grad for weight in model.parameters() if weight.grad is not None]

    ours = gradients()
    monkeypatch.setattr("simplellm.model.kernels.MAX_DENSE_TOKENS", 0)
    theirs = gradients()
    assert len(ours) == len(theirs) > 10
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)


def test_gradient_checkpointing_changes_no_gradient_of_packed_documents() -> None:
    ids = random_ids(2, 17)

    def gradient(recompute: bool) -> Tensor:
        model = build("modern")
        if recompute:
            checkpoint_gradients(model)
        model.loss(ids[:, :-1], ids[:, 1:], documents=DOCUMENTS).backward()
        gradient = model.token_embedding.weight.grad
        assert gradient is not None
        return gradient

    assert torch.equal(gradient(False), gradient(True))


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_weighted_mean_over_targets(smoothing: float) -> None:
    model, ids = build("modern"), random_ids(2, 17)
    targets, weights = ids[:, 1:], (random_ids(2, 16, seed=3) % 3 / 2).float()
    losses = F.cross_entropy(
        logits(model, ids[:, :-1], None, True).flatten(0, 1),
        targets.flatten(),
        reduction="none",
        label_smoothing=smoothing,
    )
    expected = (losses * weights.flatten()).sum() / weights.sum()
    actual = model.loss(ids[:, :-1], targets, smoothing, weights=weights)
    torch.testing.assert_close(actual.detach(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("r_drop", [0.0, 1.5])
def test_weights_of_one_give_the_plain_loss(r_drop: float) -> None:
    model, ids = build("modern", dropout=0.3), random_ids(2, 17)

    def loss(weights: Tensor | None) -> float:
        torch.manual_seed(3)
        return float(model.loss(ids[:, :-1], ids[:, 1:], 0.1, r_drop, weights).detach())

    assert loss(torch.ones(2, 16)) == pytest.approx(loss(None), rel=1e-5)


@pytest.mark.parametrize("r_drop", [0.0, 1.5])
def test_a_target_without_weight_has_no_influence(r_drop: float) -> None:
    model, ids = build("modern"), random_ids(2, 16)
    targets, weights = random_ids(2, 16, seed=2), torch.ones(2, 16)
    weights[:, 3:7] = 0
    others = targets.clone()
    others[:, 3:7] = 5

    def gradient(targets: Tensor) -> Tensor:
        model.zero_grad()
        model.loss(ids, targets, 0.1, r_drop, weights).backward()
        gradient = model.token_embedding.weight.grad
        assert gradient is not None
        return gradient

    assert torch.equal(gradient(targets), gradient(others))


def test_a_batch_without_weights_has_the_loss_0_and_no_gradient() -> None:
    model, ids = build("modern"), random_ids(2, 16)
    loss = model.loss(ids, ids, weights=torch.zeros(2, 16))
    loss.backward()
    assert float(loss.detach()) == 0
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    assert all(not gradient.any() for gradient in gradients)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["modern", "gpt2"])
def test_compiled_steps_keep_documents_apart(shape: str) -> None:
    ids, weights = random_ids(2, 17), (random_ids(2, 16, seed=3) % 3 / 2).float()

    def loss_and_gradient(compiled: bool) -> tuple[Tensor, Tensor]:
        model = build(shape)
        if compiled:
            compile_training(model)
        loss = model.loss(ids[:, :-1], ids[:, 1:], weights=weights, documents=DOCUMENTS)
        loss.backward()
        gradient = model.token_embedding.weight.grad
        assert gradient is not None
        return loss.detach(), gradient

    for plain, compiled in zip(loss_and_gradient(False), loss_and_gradient(True), strict=True):
        torch.testing.assert_close(plain, compiled, atol=1e-4, rtol=1e-3)
