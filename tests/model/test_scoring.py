"""Every token is scored once, with enough context, and the figures are those of their formulas."""

from __future__ import annotations

import json
import math
import tracemalloc

import numpy as np
import pytest
import torch

from simplellm.config.model import ModelConfig
from simplellm.model import scoring
from simplellm.model.scoring import Evaluation, evaluate, window_starts
from simplellm.model.transformer import SimpleLLM

T = 32
LENGTHS = [1, 2, T // 2, T - 1, T, T + 1, T + T // 2, T + T // 2 + 1, 2 * T, 2 * T + 1, 3 * T + 5]


def _ids(n_scored: int) -> np.ndarray:
    return np.random.default_rng(n_scored).integers(300, size=n_scored + 1).astype(np.uint16)


@torch.no_grad()
def _naive(model: SimpleLLM, ids: np.ndarray, block_size: int) -> tuple[float, float]:
    """One window per token: the first that contains it, of those that start every half block.

    The last window is moved back to end with the text.
    """
    nats, hits, n_scored = [], 0, len(ids) - 1
    for place in range(n_scored):  # ids[place + 1] is scored
        half = block_size // 2
        start = max(math.ceil((place + 1 - block_size) / half) * half, 0)
        start = min(start, max(n_scored - block_size, 0))
        context = place + 1 - start
        assert start == 0 or half <= context <= block_size, (
            "half a block before it, and no more than a block"
        )
        logits = model(torch.from_numpy(ids[start : place + 1].astype(np.int64))[None])[
            0, -1
        ].double()
        nats.append(-float(logits.log_softmax(-1)[ids[place + 1]]))
        hits += int(logits.argmax()) == ids[place + 1]
    return sum(nats) / n_scored, hits / n_scored


@pytest.mark.parametrize("n_scored", LENGTHS)
@pytest.mark.parametrize("rows_per_batch", [1, 2, 1000])
def test_evaluating_is_scoring_each_token_once_with_half_a_block_before_it(
    tiny_model: SimpleLLM, monkeypatch: pytest.MonkeyPatch, n_scored: int, rows_per_batch: int
) -> None:
    monkeypatch.setattr(scoring, "TOKENS_PER_EVALUATION_BATCH", rows_per_batch * T)
    found, (loss, accuracy) = (
        evaluate(tiny_model, _ids(n_scored), 100),
        _naive(tiny_model, _ids(n_scored), T),
    )
    assert found.tokens == n_scored
    assert found.loss == pytest.approx(loss, abs=1e-5) and found.accuracy == pytest.approx(
        accuracy, abs=1e-9
    )


@pytest.mark.parametrize("block_size", [2, 3, 5, 7])
@pytest.mark.parametrize("n_scored", [1, 2, 3, 4, 5, 8, 13, 14, 15])
def test_small_and_odd_blocks_are_scored_the_same_way(block_size: int, n_scored: int) -> None:
    model = SimpleLLM(
        ModelConfig(n_layer=1, n_head=2, n_embd=16, block_size=block_size, vocab_size=300)
    )
    model.init_weights(torch.Generator().manual_seed(1)).eval()
    loss, accuracy = _naive(model, _ids(n_scored), block_size)
    found = evaluate(model, _ids(n_scored), 10)
    assert found.loss == pytest.approx(loss, abs=1e-5) and found.accuracy == pytest.approx(
        accuracy, abs=1e-9
    )


@pytest.mark.parametrize("block_size", [2, 3, 8, 9])
def test_windows_cover_the_text_and_end_with_it(block_size: int) -> None:
    for n_scored in range(1, 60):
        starts = list(window_starts(n_scored, block_size))
        covered = {
            place for start in starts for place in range(start, min(start + block_size, n_scored))
        }
        assert covered == set(range(n_scored)) and starts == sorted(set(starts))
        assert all(start + min(block_size, n_scored) <= n_scored for start in starts)


def test_accuracy_is_one_for_a_right_and_zero_for_a_wrong_prediction() -> None:
    model = SimpleLLM(ModelConfig(n_layer=1, n_head=2, n_embd=16, block_size=8, vocab_size=300))
    model.init_weights(torch.Generator().manual_seed(1))
    ids = _ids(1)
    with torch.no_grad():
        best = int(model.eval()(torch.tensor([[int(ids[0])]])).argmax())
    assert evaluate(model, np.array([ids[0], best]), 1).accuracy == 1.0
    assert evaluate(model, np.array([ids[0], (best + 1) % 300]), 1).accuracy == 0.0


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_uses_no_dropout_and_changes_no_weight(training: bool) -> None:
    config = ModelConfig(n_layer=1, n_head=2, n_embd=16, block_size=8, vocab_size=300, dropout=0.5)
    model = SimpleLLM(config).init_weights(torch.Generator().manual_seed(1)).train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert evaluate(model, _ids(40), 10) == evaluate(model, _ids(40), 10)
    assert model.training is training and all(
        module.training is training for module in model.modules()
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


def test_figures_follow_their_formulas() -> None:
    evaluation = Evaluation(tokens=30, bytes=100, loss=math.log(16), accuracy=0.5)
    assert evaluation.bits_per_byte == pytest.approx(
        30 * 4 / 100
    ) and evaluation.perplexity == pytest.approx(16)
    assert list(evaluation.to_mapping()) == [
        "tokens",
        "bytes",
        "loss",
        "perplexity",
        "accuracy",
        "bits_per_byte",
    ]


def test_a_huge_loss_is_still_json() -> None:
    assert math.isfinite(
        json.loads(json.dumps(Evaluation(1, 1, 1e6, 0.0).to_mapping()))["perplexity"]
    )


class Zeros:
    """A long text that takes no memory."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, part: slice) -> np.ndarray:
        return np.zeros(part.stop - part.start, np.uint16)


def test_the_memory_of_an_evaluation_does_not_grow_with_the_text(
    tiny_model: SimpleLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "SEGMENT_TOKENS", 20_000)
    monkeypatch.setattr(
        scoring, "_window_scores", lambda model, windows: np.ones((2, *windows[:, 1:].shape))
    )
    peaks = []
    for length in (50_001, 500_001):
        tracemalloc.start()
        found = evaluate(tiny_model, Zeros(length), length)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert (found.tokens, found.loss, found.accuracy) == (length - 1, 1.0, 1.0)
    assert peaks[1] < 1.1 * peaks[0]


def test_segments_do_not_change_the_figures(
    tiny_model: SimpleLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate(tiny_model, _ids(900), 900)
    monkeypatch.setattr(scoring, "SEGMENT_TOKENS", 100)
    monkeypatch.setattr(scoring, "TOKENS_PER_EVALUATION_BATCH", 2 * T)
    found = evaluate(tiny_model, _ids(900), 900)
    assert found.loss == pytest.approx(whole.loss, rel=1e-6) and found.accuracy == whole.accuracy
