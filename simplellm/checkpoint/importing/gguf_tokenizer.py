"""The tokenizer of a GGUF file, as a tokenizer.json with the ids of llama.cpp."""

from __future__ import annotations

from typing import Any

from simplellm.data.own_tokenizer_file import bpe_model
from simplellm.data.post_processor import bos_processor
from simplellm.data.split_patterns import (
    GPT2_SPLIT_PATTERN,
    SplitPattern,
    known_names,
    pattern_named,
)
from simplellm.data.tokenizer import Tokenizer
from simplellm.data.tokenizer_file import SENTENCEPIECE
from simplellm.errors import TokenizerError
from simplellm.storage.gguf_header import Value
from simplellm.storage.json_files import JsonMapping, JsonObject

UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 2, 3, 4, 5  # token types of llama.cpp
SPECIAL = (UNKNOWN, CONTROL, UNUSED)  # no text becomes one of these
WHOLE_WORDS_FIRST = ("llama-bpe", "tekken")  # names for which llama.cpp ignores merges
OTHER_MODELS = {"llama": SENTENCEPIECE, "t5": SENTENCEPIECE}
PREFIX = "tokenizer.ggml."
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}


def gguf_tokenizer(metadata: JsonMapping, source: str) -> Tokenizer:
    """TokenizerError for another kind than byte-level BPE with a known split pattern."""
    model = metadata.get(f"{PREFIX}model")
    if model != "gpt2":
        what = OTHER_MODELS.get(str(model), f"the tokenizer model {model!r:.40} is not supported")
        raise TokenizerError(f"{source}: {what}", fix="use a model with byte-level BPE")
    name = metadata.get(f"{PREFIX}pre")
    pattern = pattern_named(str(name))
    if pattern is None:
        raise TokenizerError(
            f"{source}: the pre-tokenizer {name!r:.40} is not supported",
            fix=f"supported are {', '.join(known_names())}",
        )
    tokens = _texts(metadata, "tokens", source)
    types = metadata.get(f"{PREFIX}token_type") or [1] * len(tokens)
    if not isinstance(types, list) or len(types) != len(tokens):
        raise TokenizerError(f"{source} has another number of token types than tokens")
    if len(set(tokens)) != len(tokens) or "" in tokens:
        raise TokenizerError(f"{source} has a token twice, or an empty one")
    vocabulary = {
        token: number
        for number, token in enumerate(tokens)
        if types[number] != UNUSED or not _is_padding(token, number)
    }
    data = _mapping(vocabulary, _texts(metadata, "merges", source), pattern)
    data["added_tokens"] = [
        _added(number, tokens[number], types[number] in SPECIAL)
        for number in vocabulary.values()
        if types[number] == USER_DEFINED or types[number] in SPECIAL
    ]
    end, bos = (metadata.get(f"{PREFIX}{name}_token_id") for name in ("eos", "bos"))
    ids = set(vocabulary.values())
    if puts_bos(metadata) and type(bos) is int and bos in ids:
        steps = [data["post_processor"], bos_processor(tokens[bos], bos)]
        data["post_processor"] = {"type": "Sequence", "processors": steps}
    is_token = type(end) is int and end in ids
    return Tokenizer.from_mapping(data, source, end if is_token else None)


def _is_padding(text: str, number: int) -> bool:
    """Whether a converter made this text for a row of the model's table without a token."""
    return text.strip("[]") == f"PAD{number}"


def puts_bos(metadata: JsonMapping) -> bool:
    """Whether llama.cpp puts BOS before a text; where the file says nothing, by the pattern."""
    stated = metadata.get(f"{PREFIX}add_bos_token")
    pattern = pattern_named(str(metadata.get(f"{PREFIX}pre")))
    return bool(pattern and pattern.name in WHOLE_WORDS_FIRST if stated is None else stated)


def _texts(metadata: JsonMapping, name: str, source: str) -> list[str]:
    value: Value | None = metadata.get(PREFIX + name)
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise TokenizerError(f"{source} has no {PREFIX}{name}")
    return value  # type: ignore[return-value]


def _mapping(vocabulary: dict[str, int], merges: list[str], pattern: SplitPattern) -> JsonObject:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": _pre_tokenizer(pattern),
        "post_processor": BYTE_LEVEL | {"use_regex": True},
        "decoder": BYTE_LEVEL | {"use_regex": True},
        "model": bpe_model(vocabulary, merges, ignore_merges=pattern.name in WHOLE_WORDS_FIRST),
    }


def _pre_tokenizer(pattern: SplitPattern) -> JsonObject:
    if pattern.splits_digits_first:
        steps: list[JsonObject] = [{"type": "Digits", "individual_digits": True}]
        return {
            "type": "Sequence",
            "pretokenizers": [*steps, BYTE_LEVEL | {"use_regex": True}],
        }
    if pattern.expression == GPT2_SPLIT_PATTERN:
        return BYTE_LEVEL | {"use_regex": True}
    split = {
        "type": "Split",
        "pattern": {"Regex": pattern.expression},
        "behavior": "Isolated",
        "invert": False,
    }
    return {"type": "Sequence", "pretokenizers": [split, BYTE_LEVEL | {"use_regex": False}]}


def _added(number: int, content: str, special: bool) -> dict[str, Any]:
    flags = ("single_word", "lstrip", "rstrip", "normalized")
    return {
        "id": number,
        "content": content,
        **dict.fromkeys(flags, False),
        "special": special,
    }
