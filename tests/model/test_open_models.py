"""Models of `transformers` give the same logits and tokens here, and are saved as they came."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import model_folders
import numpy as np
import pytest
import torch

from simplellm.checkpoint.hugging_face import (
    from_hub_config,
    from_hub_state,
    to_hub_config,
    to_hub_state,
)
from simplellm.checkpoint.tensors import lazy
from simplellm.errors import CheckpointError
from simplellm.inference.decoder import Decoder
from simplellm.model.cache import KVCache
from simplellm.model.transformer import SimpleLLM

pytestmark = pytest.mark.usefixtures("transformers")

N_PROMPT, N_NEW = 24, 32
SHAPE = {
    **model_folders.SHAPE,
    "vocab_size": 320,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
GPT2 = {"vocab_size": 320, "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 128}
MODELS: list[tuple[str, dict[str, Any]]] = [
    ("Llama", {}),
    ("Llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    ("Llama", {"rope_parameters": LLAMA3, "rms_norm_eps": 1e-5, "tie_word_embeddings": True}),
    ("Llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1}),
    ("Llama", {"head_dim": 20, "rms_norm_eps": 1e-3}),
    ("Mistral", {"sliding_window": None, "head_dim": 16}),
    ("Mistral", {"sliding_window": 128, "rms_norm_eps": 1e-5}),
    ("Qwen2", {"tie_word_embeddings": True}),
    ("Qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    ("Qwen2", {"num_key_value_heads": 4, "rms_norm_eps": 1e-5}),
    ("Qwen3", {"head_dim": 16}),
    ("Qwen3", {"head_dim": 12, "tie_word_embeddings": True, "num_key_value_heads": 4}),
    ("Qwen3", {"head_dim": 24, "attention_bias": True, "rms_norm_eps": 1e-3}),
    ("GPT2", {**GPT2}),
    ("GPT2", {**GPT2, "layer_norm_epsilon": 1e-3, "n_inner": 100, "tie_word_embeddings": False}),
]  # fmt: skip


def theirs_of(kind: str, options: dict[str, Any]) -> Any:
    """A model of `transformers` with random weights, also of norms and biases."""
    import transformers

    shape = {"bos_token_id": 0, "eos_token_id": 0} if kind == "GPT2" else SHAPE
    config = getattr(transformers, f"{kind}Config")(**{**shape, **options})
    model = getattr(transformers, f"{kind}{'LMHeadModel' if kind == 'GPT2' else 'ForCausalLM'}")(
        config
    ).eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            is_norm = weight.dim() == 1 and bool((weight == 1).all())
            weight.copy_(1 + 0.3 * noise if is_norm else 0.15 * noise)
    return model


def ours_of(folder: Path, state: dict[str, torch.Tensor]) -> SimpleLLM:
    config = from_hub_config(json.loads((folder / "config.json").read_text()), "config.json")
    with torch.device("meta"):
        model = SimpleLLM(config)
    tied = {"lm_head.weight"} if config.tie_embeddings else set()
    hub = {name: tensor for name, tensor in state.items() if name not in tied}
    model.load_state_dict(from_hub_state(lazy(hub), model.state_dict(), config), assign=True)
    return model.eval()


@pytest.fixture(params=MODELS, ids=lambda pair: f"{pair[0]}-{'-'.join(map(str, pair[1]))}"[:60])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, SimpleLLM]:
    """The same model by `transformers` and by this project, through a saved config.json."""
    theirs = theirs_of(*request.param)
    theirs.config.save_pretrained(tmp_path)
    return theirs, ours_of(tmp_path, theirs.state_dict())


def prompt() -> torch.Tensor:
    return torch.randint(320, (1, N_PROMPT), generator=torch.Generator().manual_seed(3))


def greedy(model: SimpleLLM, n_cached: int) -> tuple[list[int], torch.Tensor]:
    """The tokens that follow the prompt, and all logits, read in parts through a cache."""
    ids = prompt()
    cache = KVCache(model.config, 1, model.token_embedding.weight)
    with torch.no_grad():
        parts = [model(ids[:, :n_cached], cache), model(ids[:, n_cached:], cache)]
        for _ in range(N_NEW - 1):
            token = parts[-1][:, -1].argmax(-1, keepdim=True)
            ids = torch.cat([ids, token], 1)
            parts.append(model(token, cache))
        last = parts[-1][:, -1].argmax(-1, keepdim=True)
    return torch.cat([ids, last], 1)[0, N_PROMPT:].tolist(), torch.cat(parts, 1)


def test_logits_tokens_cache_and_decoder_agree(pair: tuple[Any, SimpleLLM]) -> None:
    theirs, ours = pair
    tokens, cached = greedy(ours, n_cached=9)
    ids = torch.cat([prompt(), torch.tensor([tokens])], 1)
    with torch.no_grad():
        expected = theirs(ids).logits
        whole = ours(ids)
        theirs.generation_config.eos_token_id = None
        generated = theirs.generate(
            prompt(),
            attention_mask=torch.ones_like(prompt()),
            max_new_tokens=N_NEW,
            do_sample=False,
            pad_token_id=0,
        )
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(whole, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(cached, whole[:, :-1], atol=1e-4, rtol=0)
    assert generated[0, N_PROMPT:].tolist() == tokens
    decoder, cache = Decoder(ours), KVCache(ours.config, 1, ours.token_embedding.weight)
    decoded = np.stack([decoder.read(cache, [token]).copy() for token in ids[0].tolist()])
    np.testing.assert_allclose(decoded, expected[0].numpy(), atol=1e-4)


def test_a_model_is_saved_as_the_architecture_it_came_from(
    pair: tuple[Any, SimpleLLM], tmp_path: Path
) -> None:
    theirs, ours = pair
    folder = tmp_path / "again"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(to_hub_config(ours.config, 0)))
    import safetensors.torch
    from transformers import AutoModelForCausalLM

    hub = to_hub_state(ours.state_dict(), ours.config)
    safetensors.torch.save_file(hub, folder / "model.safetensors", {"format": "pt"})
    again, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert type(again) is type(theirs)
    with torch.no_grad():
        torch.testing.assert_close(
            again.eval()(prompt()).logits, theirs(prompt()).logits, atol=1e-5, rtol=0
        )


# ---------------------------------------------------------------- config.json


def config_of(kind: str, **changes: Any) -> dict[str, Any]:
    import transformers

    config = getattr(transformers, f"{kind}Config")(**SHAPE).to_dict()
    return {**config, **changes}


def former_spelling(config: dict[str, Any]) -> dict[str, Any]:
    """As `transformers` wrote it before version 5."""
    rope = dict(config.pop("rope_parameters"))
    theta = rope.pop("rope_theta")
    scaling = None if rope["rope_type"] == "default" else rope
    return {**config, "rope_theta": theta, "rope_scaling": scaling, "torch_dtype": "float32"}


@pytest.mark.parametrize("rope", [LLAMA3, {"rope_type": "default", "rope_theta": 250_000.0}])
def test_both_spellings_of_a_config_mean_the_same(rope: dict[str, Any]) -> None:
    new = config_of("Llama", rope_parameters=rope)
    expected = from_hub_config(new, "new")
    assert expected.rope_base == rope["rope_theta"]
    assert from_hub_config(former_spelling(dict(new)), "old") == expected


@pytest.mark.parametrize(
    ("kind", "changes", "named"),
    [
        ("Llama", {"model_type": "gemma3"}, "gemma3 is not supported"),
        ("Llama", {"model_type": "mixtral"}, "mixtral is not supported"),
        ("Llama", {"model_type": ["llama"]}, "not supported"),
        ("Llama", {"rope_parameters": {**LLAMA3, "rope_type": "yarn"}}, "yarn"),
        ("Llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic"),
        ("Llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "linear"),
        ("Llama", {"rope_parameters": {**LLAMA3, "rope_type": "longrope"}}, "longrope"),
        ("Llama", {"rope_parameters": {"full_attention": LLAMA3}}, "differs between layers"),
        ("Llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("Llama", {"hidden_act": "gelu"}, "gelu"),
        ("Llama", {"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        ("Llama", {"num_local_experts": 8}, "mixture of experts"),
        ("Mistral", {"sliding_window": 64}, "sliding window of 64"),
        ("Qwen2", {"use_sliding_window": True}, "use_sliding_window"),
        ("Qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ("GPT2", {"activation_function": "relu"}, "relu"),
        ("GPT2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("GPT2", {"scale_attn_weights": False}, "scale_attn_weights"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    kind: str, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(CheckpointError, match=named) as error:
        from_hub_config(config_of(kind, **changes), "config.json")
    assert "supported: " in error.value.fix


def test_the_supported_types_are_named() -> None:
    with pytest.raises(CheckpointError) as error:
        from_hub_config({"model_type": "gemma3"}, "config.json")
    assert error.value.fix == "supported: gpt2, llama, mistral, qwen2, qwen3"


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": "many"},
        {"num_hidden_layers": None},
        {"hidden_size": 0},
        {"head_dim": -2},
        {"head_dim": 13},
        {"num_key_value_heads": 3},
        {"max_position_embeddings": 1.5},
        {"rms_norm_eps": "small"},
        {"rope_parameters": [1, 2]},
        {"rope_parameters": {"rope_theta": -1}},
        {"rope_parameters": {"rope_type": "llama3"}},
        {"rope_parameters": {**LLAMA3, "factor": float("nan")}},
        {"rope_parameters": {**LLAMA3, "low_freq_factor": 4.0}},
        {"layer_types": 5},
        {"quantization_config": "yes"},
        {"tie_word_embeddings": "yes"},
        {"attention_bias": 3},
    ],
    ids=str,
)
def test_a_damaged_config_is_one_typed_error(changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError):
        from_hub_config(config_of("Llama", **changes), "config.json")


def test_a_long_context_is_capped() -> None:
    data = config_of("Llama", max_position_embeddings=40_960)
    config = from_hub_config(data, "config.json")
    assert (config.block_size, config.positions) == (4096, 40_960)
    assert to_hub_config(config, 0)["max_position_embeddings"] == 40_960
    assert from_hub_config(data, "config.json", context=100).block_size == 100
    assert from_hub_config(data, "config.json", context=10**9).block_size == 40_960


def test_a_sliding_window_is_no_obstacle_to_a_shorter_context() -> None:
    data = config_of("Mistral", sliding_window=4096, max_position_embeddings=32_768)
    config = from_hub_config(data, "config.json")
    assert to_hub_config(config, 0)["sliding_window"] == 4096
    with pytest.raises(CheckpointError, match="sliding window"):
        from_hub_config(data, "config.json", context=5000)
