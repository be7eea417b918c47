"""The tokenizer of a GGUF file: a byte-level BPE, which ggml calls `gpt2`."""

from __future__ import annotations

from collections.abc import Iterator

import gguf

from simplellm.checkpoint.export.exported_model import ExportedModel
from simplellm.checkpoint.export.split_name import split_name
from simplellm.storage.json_files import JsonObject


def add_tokenizer(writer: gguf.GGUFWriter, model: ExportedModel) -> None:
    """Add the vocabulary, the merges, the name of the split pattern and the special tokens."""
    content = model.tokenizer.to_mapping()
    tokens, types = _vocabulary(content, model.config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split_name(model))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in _merges(content)])
    _add_special_tokens(writer, model)
    # always stated: llama.cpp has other defaults for some split patterns
    writer.add_add_bos_token(bool(model.tokenizer.bos_ids))
    writer.add_add_eos_token(False)


def _add_special_tokens(writer: gguf.GGUFWriter, model: ExportedModel) -> None:
    """Add the ids that begin and end a text or a reply, and the chat template."""
    generation = model.source.generation
    end = model.tokenizer.end_of_text
    ends = generation.eos_ids or (end,)
    writer.add_eos_token_id(ends[0])
    if len(ends) > 1:
        writer.add_eot_token_id(ends[1])
    stated = end if generation.bos_id is None else generation.bos_id
    writer.add_bos_token_id((*model.tokenizer.bos_ids, stated)[0])
    writer.add_pad_token_id(end)
    if generation.chat_template is not None:
        writer.add_chat_template(generation.chat_template)


def _vocabulary(content: JsonObject, size: int) -> tuple[list[str], list[gguf.TokenType]]:
    """Text and type of each id below `size`; unused ids are padding."""
    tokens = [f"[PAD{token}]" for token in range(size)]
    types = [gguf.TokenType.UNUSED] * size
    for text, token in content["model"]["vocab"].items():
        tokens[token] = text
        types[token] = gguf.TokenType.NORMAL
    for added in content["added_tokens"]:
        tokens[added["id"]] = added["content"]
        is_special = added.get("special", False)
        types[added["id"]] = gguf.TokenType.CONTROL if is_special else gguf.TokenType.USER_DEFINED
    return tokens, types


def _merges(content: JsonObject) -> Iterator[tuple[str, str]]:
    for merge in content["model"]["merges"]:
        first, second = merge.split(" ") if isinstance(merge, str) else merge
        yield first, second
