"""Scoring on the validation text: the first part during training, more of it at the end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import STORY

from simplellm.config.model import ModelConfig
from simplellm.data.corpus import read_corpus
from simplellm.data.prepared_corpus import Prepared, prepare
from simplellm.model.transformer import SimpleLLM
from simplellm.training.validation import Validation


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder: Path = tmp_path_factory.mktemp("prepared")
    return prepare(read_corpus([str(STORY)]), None, 0.1, "bpe", 300, folder)


@pytest.fixture(scope="module")
def model(prepared: Prepared) -> SimpleLLM:
    vocab_size = prepared.tokenizer.vocab_size
    config = ModelConfig(n_layer=1, n_head=2, n_embd=16, block_size=16, vocab_size=vocab_size)
    return SimpleLLM(config).init_weights(torch.Generator().manual_seed(1))


def test_a_final_score_has_the_score_of_an_evaluation_as_its_first_part(prepared, model) -> None:
    validation = Validation(prepared, torch.device("cpu"), eval_tokens=200)
    first, final = validation.score_final(model)
    alone = validation.score(model, 200)
    assert (first.tokens, first.bytes) == (alone.tokens, alone.bytes) == (200, first.bytes)
    assert first.loss == pytest.approx(alone.loss, rel=1e-2)  # its last window ends earlier
    assert final == validation.score(model) and final.tokens == validation.final_tokens


def test_a_text_shorter_than_asked_for_is_scored_completely(prepared, model) -> None:
    validation = Validation(prepared, torch.device("cpu"), eval_tokens=10**6)
    assert validation.final_tokens == validation.n_tokens == len(prepared.val_ids) - 1
    evaluation = validation.score(model, 10**6)
    assert (evaluation.tokens, evaluation.bytes) == (validation.n_tokens, prepared.val_bytes)
