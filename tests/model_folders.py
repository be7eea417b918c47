"""Model folders as `transformers` saves them, with random weights, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from simplellm.data.tokenizer import Tokenizer

SHAPE = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
BOS_TEXT = "<|begin_of_text|>"
LATER, MARK = "<|later|>", "<mark>"  # added by `with_gaps`
GPT2 = {"n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 128}


def save_model(
    folder: Path,
    kind: str,
    tokenizer: Tokenizer,
    dtype: torch.dtype = torch.float32,
    shard_size: str = "1GB",
    **options: Any,
) -> Any:
    """Write a folder and return the model of `transformers` in it. kind: Llama, Qwen2, GPT2, ..."""
    import transformers

    end = tokenizer.end_of_text
    shape = {"bos_token_id": end, "eos_token_id": end, "vocab_size": tokenizer.vocab_size}
    shape |= {**(GPT2 if kind == "GPT2" else SHAPE), **options}
    config = getattr(transformers, f"{kind}Config")(**shape)
    head = "LMHeadModel" if kind == "GPT2" else "ForCausalLM"
    model = getattr(transformers, f"{kind}{head}")(config).eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            is_norm = weight.dim() == 1 and bool((weight == 1).all())
            weight.copy_(1 + 0.3 * noise if is_norm else 0.15 * noise)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard_size)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer.to_mapping()), encoding="utf-8")
    # Read again, because `to` has rounded the rotary frequencies too.
    return type(model).from_pretrained(folder, dtype=torch.float32).eval()


def change_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; None removes a key."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    content = {**content, **changes}
    kept = {key: value for key, value in content.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")


def with_bos(tokenizer: Tokenizer) -> Tokenizer:
    """`tokenizer` with one more special token, which its post-processor puts before each text."""
    data = json.loads(json.dumps(tokenizer.to_mapping()))
    bos = tokenizer.vocab_size
    data["added_tokens"].append({**data["added_tokens"][0], "id": bos, "content": BOS_TEXT})
    data["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": BOS_TEXT, "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {BOS_TEXT: {"id": BOS_TEXT, "ids": [bos], "tokens": [BOS_TEXT]}},
    }
    return Tokenizer.from_mapping(data)


def with_gaps(tokenizer: Tokenizer) -> Tokenizer:
    """`tokenizer` without three of its last tokens, and with two tokens beyond its table.

    `<|later|>` is special, `<mark>` is found in any text; ids in between have no token.
    """
    data = json.loads(json.dumps(tokenizer.to_mapping()))
    model, size = data["model"], tokenizer.vocab_size
    words = sorted(model["vocab"], key=model["vocab"].__getitem__)
    parts = {part for merge in model["merges"] for part in merge}
    for word in [word for word in words if word not in parts and len(word) > 1][-9:-3:2]:
        del model["vocab"][word]
        model["merges"] = [merge for merge in model["merges"] if "".join(merge) != word]
    end = data["added_tokens"][0]
    for text, number, special in [(LATER, size + 5, True), (MARK, size + 9, False)]:
        data["added_tokens"].append({**end, "id": number, "content": text, "special": special})
    # In the vocabulary, or `tokenizers` gives them the ids after its length, which are in use.
    model["vocab"] |= {added["content"]: added["id"] for added in data["added_tokens"]}
    data["post_processor"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    return Tokenizer.from_mapping(data)
