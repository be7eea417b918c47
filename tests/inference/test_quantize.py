"""Weights in 8 bits: nearly the same predictions, and equal in the decoder and the model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from test_decoder import random_model, read_all, without_compiler

from simplellm.app.cli import main
from simplellm.config.sampling import SamplingParams
from simplellm.inference.native_products import native_products
from simplellm.inference.quantize import Int8Linear, quantize
from simplellm.inference.sampler import Sampler
from simplellm.model.layers import Linear
from simplellm.model.scoring import evaluate

ARCHITECTURES = ["modern", "gpt2"]


@settings(deadline=None, max_examples=examples(50))
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([0.0, 1e-30, 1e-6, 1.0, 1e6]),
    st.integers(0, 99),
)
def test_weights_change_by_at_most_half_a_step(rows, columns, size, seed):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * size
    layer = Int8Linear(weight)
    kept = layer(torch.eye(columns)).T
    step = layer.get_buffer("scale").float()[:, None]
    largest = weight.abs().amax(1, keepdim=True)
    clipped = (largest - 127 * step).clamp_min(0)  # where the scale was rounded down
    assert bool(((kept - weight).abs() <= step * 0.501 + clipped).all())
    assert bool((clipped <= largest / 250 + 1e-37).all())


@pytest.mark.parametrize("bias", [None, torch.ones(48)])
def test_the_product_of_one_vector_equals_the_layer(bias):
    layer, x = Int8Linear(torch.randn(48, 64), bias), torch.randn(64)
    expected = layer(x) - (0 if bias is None else bias)
    assert float((layer.product(x).float() - expected).abs().max() / expected.abs().max()) < 0.01


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_matrix_becomes_int8_and_predictions_hardly_change(architecture, tied):
    model, ids = (
        random_model(architecture=architecture, tie_embeddings=tied),
        torch.randint(257, (1, 24)),
    )
    with torch.no_grad():
        before = model(ids).log_softmax(-1)
        after = quantize(model)(ids).log_softmax(-1)
    assert not any(isinstance(module, Linear) for module in model.modules())
    assert 0 < float((before.exp() * (before - after)).sum(-1).mean()) < 0.01  # nats


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_decoder_equals_the_quantized_model(architecture):
    if native_products() is None:
        pytest.skip("no C compiler here")
    check_decoder(architecture, tolerance=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_a_compiler_the_decoder_rounds_vectors_to_bfloat16(architecture, monkeypatch):
    without_compiler(monkeypatch)
    check_decoder(architecture, tolerance=0.15)


def check_decoder(architecture: str, tolerance: float) -> None:
    model, ids = quantize(random_model(architecture=architecture)), list(range(1, 25))
    with torch.no_grad():
        expected = model(torch.tensor([ids]))[0].log_softmax(-1).numpy()
    got = torch.from_numpy(read_all(model, ids)).log_softmax(-1).numpy()
    np.testing.assert_allclose(got, expected, atol=tolerance)


def test_a_trained_model_loses_less_than_a_percent_of_perplexity(trained_model, story):
    model, tokenizer = trained_model
    ids = np.array(tokenizer.encode(story[:6000]))
    whole = evaluate(model, ids, 6000).loss
    assert abs(evaluate(quantize(model), ids, 6000).loss - whole) < 0.01


def test_a_quantized_model_streams_a_reply(trained_model):
    model, tokenizer = trained_model
    reply = Sampler(quantize(model), tokenizer).stream(
        [1, 2, 3], SamplingParams(max_new_tokens=20, seed=1)
    )
    assert (
        "".join(piece.text for piece in reply) == tokenizer.decode(reply.new_ids)
        and len(reply.new_ids) == 20
    )


def test_evaluate_and_generate_accept_quantize(trained, story, tmp_path, capsys):
    (tmp_path / "text.txt").write_text(story[:2000])
    losses = {}
    for format in ("off", "int8"):
        common = ["--quantize", format, "--checkpoints", str(trained), "--device", "cpu", "--json"]
        assert main(["evaluate", "--data", str(tmp_path / "text.txt"), *common]) == 0
        losses[format] = json.loads(capsys.readouterr().out)["loss"]
        assert main(["generate", "--prompt", "The", "--max-new-tokens", "5", *common]) == 0
        assert json.loads(capsys.readouterr().out)["new_tokens"] == 5
    assert 0 < abs(losses["int8"] - losses["off"]) < 0.01
    assert main(["evaluate", "--data", "x", "--quantize", "int4"]) == 2
