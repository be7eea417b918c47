"""The tokenizer of a GGUF file: a byte-level BPE, which ggml calls `gpt2`."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet

import gguf

from simplellm.checkpoint.export.exported_model import ExportedModel
from simplellm.checkpoint.export.split_name import split_name
from simplellm.errors import CheckpointError
from simplellm.storage.json_files import JsonObject


def add_tokenizer(writer: gguf.GGUFWriter, model: ExportedModel) -> None:
    """Add the vocabulary, the merges, the name of the split pattern and the special tokens."""
    content = model.tokenizer.to_mapping()
    tokens, types = _vocabulary(model)
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


def _vocabulary(model: ExportedModel) -> tuple[list[str], list[gguf.TokenType]]:
    """Text and type of each row of the model's table; rows without a token are padding.

    llama.cpp finds a token by its text, so no two may have the same: it stops at such a file.
    CheckpointError for two tokens with one id, which `tokenizers` accepts.
    """
    texts: dict[int, str] = {}
    types: dict[int, gguf.TokenType] = {}
    for text, token in model.tokenizer.to_mapping()["model"]["vocab"].items():
        texts[token] = text
        types[token] = gguf.TokenType.NORMAL
    for added in model.tokenizer.added_tokens:
        other = texts.setdefault(added.id, added.content)
        if other != added.content:
            raise CheckpointError(
                f"{model.name} has two tokens with the id {added.id}, "
                f"{other[:40]!r} and {added.content[:40]!r}; a GGUF file has one text for each id",
                fix="use --format hf",
            )
        types[added.id] = gguf.TokenType.CONTROL if added.special else gguf.TokenType.USER_DEFINED
    used = set(texts.values())
    tokens = [texts.get(row) or _padding(row, used) for row in range(model.config.vocab_size)]
    return tokens, [types.get(row, gguf.TokenType.UNUSED) for row in range(len(tokens))]


def _padding(row: int, used: AbstractSet[str]) -> str:
    """The text of a row without a token, as llama.cpp's converter names it, and not in use."""
    text = f"[PAD{row}]"
    while text in used:
        text = f"[{text}]"
    return text


def _merges(content: JsonObject) -> Iterator[tuple[str, str]]:
    for merge in content["model"]["merges"]:
        first, second = merge.split(" ") if isinstance(merge, str) else merge
        yield first, second
