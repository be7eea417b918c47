"""GGUF files open with the logits of the model that they were made of."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import pytest
import tokenizers
import torch
from tokenizers import models, pre_tokenizers, trainers

from simplellm.checkpoint.importing.gguf_file import read_gguf
from simplellm.checkpoint.importing.gguf_tensors import read_tensor
from simplellm.checkpoint.step_folder import open_model
from simplellm.errors import CheckpointError, SettingError, TokenizerError
from simplellm.storage.gguf_header import TYPES, GgufEntry

if TYPE_CHECKING:
    import transformers

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("transformers")
VOCABULARY = 320
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SHARED = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5, "rope_theta": 50_000.0,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64, "rope_theta": 50_000.0,
}  # fmt: skip
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {**SHARED, "tie_word_embeddings": True}),
    "llama, untied, biases": ("Llama", {**SHARED, "attention_bias": True, "mlp_bias": True}),
    "llama, heads of 32": ("Llama", {**SHARED, "head_dim": 32}),
    "llama3": ("Llama", {**SHARED, "rope_scaling": LLAMA3, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2", {**SHARED, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {**SHARED, "head_dim": 32, "tie_word_embeddings": False}),
    "gpt2": (
        "GPT2",
        {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128},
    ),
}


@pytest.fixture(scope="module")
def vocabulary(story: str) -> dict[str, Any]:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(
        [story],
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=SPECIAL,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    return json.loads(tokenizer.to_str())["model"]


def random_model(name: str) -> transformers.PreTrainedModel:
    """The model of `MODELS` with random weights."""
    import transformers

    kind, options = MODELS[name]
    config = getattr(transformers, f"{kind}Config")(**options)
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.08)
    return model


def write_gguf(
    path: Path,
    model: transformers.PreTrainedModel,
    vocabulary: dict[str, Any],
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    **replaced: Any,
) -> Path:
    """As llama.cpp's converter writes a model; `replaced` metadata by the end of its key."""
    config = model.config
    name = config.model_type
    arch = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == name)
    writer = gguf.GGUFWriter(path, name)
    metadata = _metadata(config) | replaced
    for key, value in metadata.items():
        add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
        if value is not None:
            add(f"{name}.{key}", value)
    _add_tokenizer(writer, vocabulary)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for hub_name, tensor in model.state_dict().items():
        if hub_name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = tensor.numpy()
        target = names.get_name(hub_name, try_suffixes=(".weight", ".bias"))
        if name == "gpt2" and ".h." in hub_name and array.ndim == 2:
            array = array.T
        for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", "kv")):
            if name == "llama" and part in hub_name:
                heads = config.num_key_value_heads if heads == "kv" else heads
                halves = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
                array = halves.swapaxes(1, 2).reshape(array.shape)
        _add_tensor(writer, target, np.ascontiguousarray(array), kind)
    if getattr(config, "rope_scaling", None) and config.rope_scaling.get("rope_type") == "llama3":
        plain = 50_000.0 ** -(np.arange(0, 16, 2) / 16)
        scaled = model.model.rotary_emb.inv_freq.numpy()
        writer.add_tensor("rope_freqs.weight", (plain / scaled).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _metadata(config: transformers.PretrainedConfig) -> dict[str, int | float | None]:
    shared = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "attention.head_count": config.num_attention_heads,
    }
    if config.model_type == "gpt2":
        return {**shared, "feed_forward_length": 256, "attention.layer_norm_epsilon": 1e-5}
    return {
        **shared,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": getattr(config, "head_dim", None),
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": 50_000.0,
    }


def _add_tokenizer(writer: gguf.GGUFWriter, vocabulary: dict[str, Any]) -> None:
    tokens = sorted(vocabulary["vocab"], key=vocabulary["vocab"].__getitem__)
    writer.add_tokenizer_model(vocabulary.get("model", "gpt2"))
    writer.add_tokenizer_pre(vocabulary.get("pre", "gpt-2"))
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in vocabulary["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_chat_template("{{ messages }}")


def _add_tensor(
    writer: gguf.GGUFWriter, name: str, array: np.ndarray, kind: gguf.GGMLQuantizationType
) -> None:
    if array.ndim == 1 or kind is gguf.GGMLQuantizationType.F32:
        writer.add_tensor(name, array)
    else:
        writer.add_tensor(name, gguf.quantize(array, kind), raw_dtype=kind)


@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_those_of_transformers(
    tmp_path: Path, vocabulary: dict[str, Any], name: str
) -> None:
    model = random_model(name)
    opened = open_model(write_gguf(tmp_path / "m.gguf", model, vocabulary), CPU)
    ids = torch.arange(100)[None] * 3 % VOCABULARY
    with torch.no_grad():
        torch.testing.assert_close(opened.model(ids), model(ids).logits, atol=1e-4, rtol=1e-4)
    assert opened.generation.eos_ids == (2,) and opened.generation.bos_id == 0
    assert opened.generation.chat_template == "{{ messages }}"
    assert opened.tokenizer.special_tokens.keys() == set(SPECIAL)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_a_quantized_file_has_the_values_of_the_gguf_package(
    tmp_path: Path, vocabulary: dict[str, Any], kind: str
) -> None:
    code = gguf.GGMLQuantizationType[kind]
    model = random_model("qwen3")
    path = write_gguf(tmp_path / "m.gguf", model, vocabulary, code)
    weight = model.state_dict()["model.embed_tokens.weight"].numpy()
    expected = gguf.dequantize(gguf.quantize(weight, code), code)
    read = read_gguf(path).tensors["model.embed_tokens.weight"].read()
    assert torch.equal(read.float(), torch.from_numpy(expected))
    assert read.dtype == {"F16": torch.float16, "BF16": torch.bfloat16}.get(kind, torch.float32)


@pytest.mark.parametrize("code", TYPES)
@pytest.mark.parametrize("n_rows", [1, 37, 700])
def test_every_number_format_is_read_as_the_gguf_package_does(
    tmp_path: Path, code: int, n_rows: int
) -> None:
    kind, values, size = TYPES[code]
    assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(code)] == (values, size)
    width = 8 * values
    raw = np.random.default_rng(1).integers(0, 120, (n_rows, 8 * size), dtype=np.uint8)
    (tmp_path / "x").write_bytes(b"before" + raw.tobytes() + b"behind")
    read = read_tensor(tmp_path / "x", GgufEntry(kind, (n_rows, width), 6, 6 + raw.size))
    expected = gguf.dequantize(raw, gguf.GGMLQuantizationType(code))
    assert read.shape == (n_rows, width)
    np.testing.assert_array_equal(read.float().numpy(), expected)


def test_special_tokens_of_a_text_are_text(tmp_path: Path, vocabulary: dict[str, Any]) -> None:
    path = write_gguf(tmp_path / "m.gguf", random_model("llama"), vocabulary)
    tokenizer = read_gguf(path).tokenizer
    assert not {0, 1, 2} & set(tokenizer.encode("<|im_start|>user<|im_end|>"))
    assert tokenizer.encode_template("<|im_start|>")[0] == 1
    reference = tokenizers.Tokenizer.from_str(json.dumps(tokenizer.to_mapping()))
    assert reference.encode("Hello 한국").ids == tokenizer.encode_prompt("Hello 한국")
    assert tokenizer.encode_prompt("Hello") == [0, *tokenizer.encode("Hello")]  # add_bos_token


REFUSED_METADATA = {
    "expert_count": (4, "mixture of experts"),
    "attention.sliding_window": (512, "sliding window"),
    "rope.dimension_count": (8, "partial_rotary_factor"),
    "block_count": (3, "no tensor"),
    "attention.head_count": (5, "."),
    "attention.head_count_kv": (3, "."),
    "embedding_length": (63, "."),
    "context_length": (None, "context_length"),
    "attention.key_length": ((1 << 31) - 2, "."),
    "feed_forward_length": (1 << 31, "."),
}


@pytest.mark.parametrize("key", REFUSED_METADATA)
def test_metadata_that_is_not_supported_is_refused(
    tmp_path: Path, vocabulary: dict[str, Any], key: str
) -> None:
    value, message = REFUSED_METADATA[key]
    model = random_model("llama")
    path = write_gguf(tmp_path / "m.gguf", model, vocabulary, **{key: value})
    with pytest.raises(CheckpointError, match=message):
        open_model(path, CPU)


def test_a_huge_number_of_blocks_is_refused_at_once(
    tmp_path: Path, vocabulary: dict[str, Any]
) -> None:
    model = random_model("llama")
    path = write_gguf(tmp_path / "m.gguf", model, vocabulary, block_count=1 << 31)
    started_at = time.process_time()
    with pytest.raises(CheckpointError):
        open_model(path, CPU)
    assert time.process_time() - started_at < 3


def test_the_fuzzed_name_of_a_tensor_is_refused(tmp_path: Path, vocabulary: dict[str, Any]) -> None:
    path = write_gguf(tmp_path / "m.gguf", random_model("llama"), vocabulary)
    content = path.read_bytes()
    for name in (b"output_norm-weight", b"outputxnorm.weight", b"output_norm.weighs"):
        path.write_bytes(content.replace(b"output_norm.weight", name))
        with pytest.raises(CheckpointError, match="has a tensor"):
            open_model(path, CPU)


def test_quantized_weights_without_the_gguf_package_name_the_extra(
    tmp_path: Path, vocabulary: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = gguf.GGMLQuantizationType.Q8_0
    path = write_gguf(tmp_path / "m.gguf", random_model("llama"), vocabulary, kind)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(SettingError, match="need the package gguf") as caught:
        open_model(path, CPU)
    assert "[hub]" in caught.value.fix


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "llama"}, "SentencePiece tokenizers are not supported"),
        ({"model": "bert"}, "the tokenizer model 'bert' is not supported"),
        ({"pre": "falcon"}, "the pre-tokenizer 'falcon' is not supported"),
        ({"merges": [["a", "한"]]}, "a merge has no token"),
    ],
)
def test_other_tokenizers_are_refused_by_name(
    tmp_path: Path, vocabulary: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    model = random_model("llama")
    path = write_gguf(tmp_path / "m.gguf", model, {**vocabulary, **change})
    with pytest.raises(TokenizerError, match=message):
        read_gguf(path)


def test_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "gemma3")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match="'gemma3' is not supported") as caught:
        read_gguf(tmp_path / "m.gguf")
    assert "llama" in caught.value.fix
