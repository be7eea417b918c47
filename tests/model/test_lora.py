"""LoRA: adapters change nothing at first, are the merged matrices, and are all that is trained."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from simplellm.config.model import ModelConfig
from simplellm.model.frozen_weights import FrozenWeights, joined, split
from simplellm.model.lora import Lora, adapt, adapted_layers, trained_weights
from simplellm.model.transformer import SimpleLLM

LLAMA = ModelConfig(
    architecture="llama",
    n_layer=2,
    n_head=4,
    n_kv_head=2,
    n_embd=32,
    block_size=16,
    vocab_size=300,
    tie_embeddings=True,
    attention_bias=True,
    dropout=0.0,
)
GPT2 = ModelConfig(
    architecture="gpt2", n_layer=2, n_head=4, n_embd=32, block_size=16, vocab_size=300, dropout=0.0
)
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ALL_GPT2 = ("c_attn", "c_proj", "c_fc")
LORA = Lora(rank=3, alpha=12.0, dropout=0.0, targets=ALL)
IDS = torch.arange(32).view(2, 16)
TARGETS = IDS.flip(1)


def random(config: ModelConfig = LLAMA) -> SimpleLLM:
    model = SimpleLLM(config).init_weights(torch.Generator().manual_seed(1))
    return model.eval()


def adapted(
    base: SimpleLLM, lora: Lora = LORA, dtype: torch.dtype = torch.float32, moved: bool = True
) -> SimpleLLM:
    """A copy of `base` with adapters; `moved`: with random numbers in B."""
    generator = torch.Generator().manual_seed(2)
    weights = FrozenWeights(copy.deepcopy(base).state_dict(), dtype)
    model = adapt(SimpleLLM(base.config).eval(), lora, generator, weights)
    for _, layer in adapted_layers(model) if moved else ():
        layer.lora_b.data.normal_(0, 0.1, generator=generator)
    return model


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bf16"])
def test_new_adapters_change_no_bit_of_the_logits(config: ModelConfig, dtype: torch.dtype) -> None:
    base = random(config)
    lora = Lora(3, 12.0, 0.0, ALL + ALL_GPT2)
    model = adapted(base, lora, dtype, moved=False)
    with torch.no_grad():
        assert torch.equal(model(IDS), base(IDS))


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("targets", [ALL + ALL_GPT2, ("q_proj", "v_proj", "up_proj", "c_proj")])
def test_the_merged_model_computes_what_the_adapters_do(
    config: ModelConfig, targets: tuple[str, ...]
) -> None:
    base = random(config)
    model = adapted(base, Lora(3, 12.0, 0.0, targets))
    merged = SimpleLLM(config)
    merged.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = merged.eval()(IDS)
        assert torch.equal(model(IDS), expected)  # where no gradient is needed
        assert float((expected - base(IDS)).abs().max()) > 0.01
    torch.testing.assert_close(model(IDS), expected, atol=1e-4, rtol=0)


def test_only_adapters_have_gradients() -> None:
    model = adapted(random())
    model.loss(IDS, TARGETS).backward()
    named = dict(model.named_parameters())
    with_gradient = {name for name, weight in named.items() if weight.grad is not None}
    assert with_gradient == set(trained_weights(model))
    assert with_gradient and all(".lora_" in name for name in with_gradient)


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_gradients_follow_from_those_of_the_whole_matrices(config: ModelConfig) -> None:
    model = adapted(random(config), Lora(3, 12.0, 0.0, ALL + ALL_GPT2))
    full = SimpleLLM(config)
    full.load_state_dict(model.state_dict())
    full.eval().loss(IDS, TARGETS).backward()
    model.loss(IDS, TARGETS).backward()
    compared = 0
    for name, layer in adapted_layers(model):
        gradient = full.get_submodule(name).weight.grad  # of W: (out, C)
        assert isinstance(gradient, Tensor)
        adapters = list(layer.adapters())
        expected_a = [
            layer.lora.scale * b.t() @ gradient[layer.places.rows_of(i)] for i, _, b in adapters
        ]
        expected_b = [
            layer.lora.scale * gradient[layer.places.rows_of(i)] @ a.t() for i, a, _ in adapters
        ]
        torch.testing.assert_close(layer.lora_a.grad, torch.cat(expected_a), atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(layer.lora_b.grad, torch.cat(expected_b), atol=1e-6, rtol=1e-4)
        compared += 1
    assert compared == 8


def test_each_matrix_of_transformers_has_one_pair_of_adapters() -> None:
    qkv = "blocks.0.attention.qkv"
    llama = dict(adapted_layers(adapted(random())))
    gpt2 = dict(adapted_layers(adapted(random(GPT2), Lora(3, 12.0, 0.0, ALL_GPT2))))
    assert [tuple(b.shape) for _, _, b in llama[qkv].adapters()] == [(32, 3), (16, 3), (16, 3)]
    assert [tuple(b.shape) for _, _, b in gpt2[qkv].adapters()] == [(96, 3)]  # c_attn


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_gradients_by_hand_are_those_of_torch(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from simplellm.model import lora

    model = adapted(random(), Lora(3, 12.0, share, ("q_proj", "v_proj", "down_proj"))).train()
    gradients = []
    for prefers_torch in (lora.prefers_torch, lambda x: True):
        monkeypatch.setattr(lora, "prefers_torch", prefers_torch)
        torch.manual_seed(3)
        model.zero_grad()
        model.loss(IDS, TARGETS).backward()
        gradients.append([weight.grad for weight in trained_weights(model).values()])
    assert len(gradients[0]) == 8
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-4)


def test_dropout_changes_training_steps_only() -> None:
    model = adapted(random(), Lora(3, 12.0, 0.5, ALL))
    exact = model(IDS).detach()
    torch.manual_seed(0)
    dropped = model.train()(IDS).detach()
    assert float((dropped - exact).abs().max()) > 1e-3
    with torch.no_grad():
        torch.testing.assert_close(model(IDS), exact, atol=1e-4, rtol=0)


def test_two_halves_hold_every_float32_number() -> None:
    numbers = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    numbers = torch.cat([numbers * 10.0**e for e in (-30, -3, 0, 20)] + [torch.zeros(3)])
    high, lower = split(numbers)
    assert torch.equal(joined(high, lower), numbers)
    assert float(((high.float() - numbers) / numbers).nan_to_num().abs().max()) <= 2**-8
    high, lower = split(numbers.bfloat16().float())
    assert lower is None and torch.equal(high, numbers.bfloat16())


def test_frozen_matrices_in_bf16_give_nearly_the_same_gradients() -> None:
    base = random()
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        model = adapted(base, dtype=dtype)
        model.loss(IDS, TARGETS).backward()
        gradients.append(torch.cat([w.grad.flatten() for w in trained_weights(model).values()]))
    assert torch.cosine_similarity(*gradients, dim=0) > 0.999


def test_initial_adapters_are_those_of_peft_in_distribution() -> None:
    model = adapted(random(), moved=False)
    for _, layer in adapted_layers(model):
        limit = layer.in_features**-0.5  # kaiming_uniform_(a=sqrt(5))
        assert 0.8 * limit < float(layer.lora_a.detach().abs().max()) <= limit
        assert not layer.lora_b.any()
    again = adapted(random(), moved=False)
    assert all(
        torch.equal(weight, again.get_parameter(name))
        for name, weight in trained_weights(model).items()
    )
