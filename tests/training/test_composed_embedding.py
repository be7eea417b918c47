"""Composed embeddings: a token's row and those of its parts, also during training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import STORY
from small_runs import digests, training_context
from torch import Tensor

from simplellm.checkpoint.run import RunFolder
from simplellm.config.model import ModelConfig
from simplellm.config.training import TrainConfig
from simplellm.data.tokenizer import Tokenizer
from simplellm.device import grad_scaler
from simplellm.model.transformer import SimpleLLM
from simplellm.training.composed_embedding import composition_matrices
from simplellm.training.optimizer import Optimizer
from simplellm.training.resume import resume
from simplellm.training.sources import Sources
from simplellm.training.start import start

SCALER = grad_scaler(torch.device("cpu"), "float32")
TABLES = {True: ["token_embedding.weight"], False: ["token_embedding.weight", "head.weight"]}


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    """Bytes, and `ab`, `bc`, `abc`."""
    tokens = [*(bytes([byte]) for byte in range(256)), b"ab", b"bc", b"abc"]
    return Tokenizer(
        {token: number for number, token in enumerate(tokens)}, end_of_text=len(tokens)
    )


def row(matrix: Tensor, number: int) -> dict[int, float]:
    values = matrix.to_dense()[number]
    return {int(place): float(values[place]) for place in values.nonzero()}


def test_input_tokens_are_composed_of_suffixes_and_output_tokens_of_prefixes(words):
    read, predicted = (composition_matrices(words, 1.0, tied=False)[name] for name in TABLES[False])
    a, c, ab, bc, abc = (words.ranks[token] for token in (b"a", b"c", b"ab", b"bc", b"abc"))
    half = 2**-0.5
    assert row(read, abc) == pytest.approx({abc: 1.0, bc: half, c: half})
    assert row(predicted, abc) == pytest.approx({abc: 1.0, a: half, ab: half})
    assert row(read, a) == row(predicted, a) == {a: 1.0}


def test_a_tied_table_is_composed_of_prefixes_and_suffixes(words):
    (tied,) = composition_matrices(words, 1.0, tied=True).values()
    apart = [matrix.to_dense() for matrix in composition_matrices(words, 1.0, tied=False).values()]
    torch.testing.assert_close(tied.to_dense(), sum(apart) - torch.eye(words.vocab_size))


def test_the_weight_scales_the_parts_and_weight_0_has_no_matrices(words):
    (one,), (two,) = (
        composition_matrices(words, weight, tied=True).values() for weight in (1.0, 2.0)
    )
    own = torch.eye(words.vocab_size)
    torch.testing.assert_close(two.to_dense() - own, 2 * (one.to_dense() - own))
    assert composition_matrices(words, 0.0, tied=True) == {}


def built(
    tokenizer: Tokenizer, tied: bool, **given: Any
) -> tuple[SimpleLLM, Optimizer, dict[str, Tensor]]:
    config = ModelConfig(
        n_layer=1,
        n_head=2,
        n_embd=16,
        block_size=16,
        vocab_size=tokenizer.vocab_size,
        tie_embeddings=tied,
    )
    model = SimpleLLM(config).init_weights(torch.Generator().manual_seed(1))
    matrices = composition_matrices(tokenizer, 1.0, tied)
    return model, Optimizer(model, TrainConfig(learning_rate=1e-2, **given), matrices), matrices


def learn(model: SimpleLLM, optimizer: Optimizer, steps: int) -> None:
    for step in range(steps):
        ids = torch.randint(
            model.config.vocab_size, (4, 17), generator=torch.Generator().manual_seed(step)
        )
        model.loss(ids[:, :-1], ids[:, 1:]).backward()
        optimizer.unscale(SCALER)
        optimizer.step(SCALER)
        optimizer.zero_grad()


@pytest.mark.parametrize("tied", [True, False])
def test_the_models_table_is_a_times_r_after_every_step(tokenizer, tied):
    model, optimizer, matrices = built(tokenizer, tied)
    for steps in (0, 1, 3):
        raw = {
            name: value.clone()
            for name, value in optimizer.state().items()
            if name.endswith("/raw")
        }
        learn(model, optimizer, steps)
        moved = optimizer.state()
        assert sorted(matrices) == sorted(TABLES[tied])
        for name, matrix in matrices.items():
            composed = matrix.to_dense() @ moved[f"{name}/raw"]
            torch.testing.assert_close(
                dict(model.named_parameters())[name].detach(), composed, atol=1e-6, rtol=1e-5
            )
            assert torch.equal(raw[f"{name}/raw"], moved[f"{name}/raw"]) == (steps == 0)


@pytest.mark.parametrize("tied", [True, False])
def test_the_gradient_of_r_is_that_of_the_loss_with_a_times_r(tokenizer, tied):
    model, optimizer, matrices = built(tokenizer, tied)
    ids = torch.randint(tokenizer.vocab_size, (4, 17), generator=torch.Generator().manual_seed(0))
    raw = {name: optimizer.state()[f"{name}/raw"].clone().requires_grad_() for name in matrices}
    composed = {name: matrix.to_dense() @ raw[name] for name, matrix in matrices.items()}
    logits = torch.func.functional_call(model, composed, (ids[:, :-1],))
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
    model.loss(ids[:, :-1], ids[:, 1:]).backward()
    optimizer.unscale(SCALER)
    mine = {optimizer._names[id(weight)]: weight.grad for weight in optimizer.weights}
    for name in matrices:
        torch.testing.assert_close(mine[name], raw[name].grad, atol=1e-6, rtol=1e-4)


def test_a_token_is_trained_by_tokens_that_contain_it(tokenizer):
    """A token that never occurs moves all the same, because one that ends in it does."""
    whole = max((token for token in tokenizer.ranks if token[1:] in tokenizer.ranks), key=len)
    moved = {}
    for composed in (True, False):
        model, optimizer, _ = built(tokenizer, False, weight_decay=0.0)
        if not composed:
            optimizer = Optimizer(model, TrainConfig(learning_rate=1e-2, weight_decay=0.0))
        part = model.token_embedding.weight[tokenizer.ranks[whole[1:]]]
        before, ids = part.detach().clone(), torch.full((1, 8), tokenizer.ranks[whole])
        for _ in range(
            3
        ):  # at first the blocks add nothing to the stream, so that nothing but the head is asked
            model.loss(ids, ids).backward()
            optimizer.unscale(SCALER)
            optimizer.step(SCALER)
            optimizer.zero_grad()
        moved[composed] = not torch.equal(
            model.token_embedding.weight[tokenizer.ranks[whole[1:]]].detach(), before
        )
    assert moved == {True: True, False: False}


@pytest.mark.parametrize("tied", [True, False])
def test_a_run_with_composition_resumes_bit_for_bit(tmp_path, tied):
    given = {
        "n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16, "vocab_size": 400,
        "batch_size": 2, "eval_tokens": 64,
        "precision": "float32", "max_steps": 6, "eval_interval": 2, "composition": 1.0,
        "tie_embeddings": tied,
        "bpe_dropout": 0.0, "ema_decay": 0.9,
    }  # fmt: skip
    for name, stop_after in (("whole", None), ("cut", 3)):
        start(Sources((str(STORY),)), given, name, training_context(tmp_path, stop_after))
    cut, whole = RunFolder(tmp_path / "cut"), RunFolder(tmp_path / "whole")
    assert (
        cut.last().name == "step-000003" and resume(cut, {}, training_context(tmp_path)).steps == 6
    )
    assert digests(cut) == digests(whole)
