"""tokenizer.json of other programs: byte-level BPE with a known split pattern.

What is not supported is refused by name. Nothing of the file is executed: a split pattern selects
one of split_patterns.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simplellm.data.added_tokens import AddedToken, AddedTokens
from simplellm.data.byte_alphabet import all_to_bytes
from simplellm.data.byte_pairs import BytePairEncoder
from simplellm.data.merging_encoder import Vocabulary, merging_encoder
from simplellm.data.post_processor import bos_ids_of
from simplellm.data.split_patterns import (
    GPT2_SPLIT_PATTERN,
    SplitPattern,
    find_pattern,
    known_names,
)
from simplellm.errors import TokenizerError
from simplellm.storage.json_files import JsonObject

MAX_ID = 1 << 24
MAX_ADDED_TOKENS = 100_000
SENTENCEPIECE = "SentencePiece tokenizers are not supported"
END_NAMES = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<|im_end|>", "<|eot_id|>", "<eos>")
NORMAL_FORMS = ("NFC", "NFD", "NFKC", "NFKD")
FIX = "use a model with a byte-level BPE tokenizer (GPT-2, Llama 3, SmolLM2, Qwen)"


@dataclass(frozen=True)
class TokenizerFile:
    """A tokenizer.json that was read.

    tokens: bytes -> id of all ordinary tokens. contents: id -> bytes for decoding, without special
    tokens. bos_ids: special tokens before each text.
    """

    tokens: Mapping[bytes, int]
    contents: Mapping[int, bytes]
    added: AddedTokens
    pattern: SplitPattern
    encoder: BytePairEncoder
    data: JsonObject
    bos_ids: tuple[int, ...] = ()

    @property
    def vocab_size(self) -> int:
        return 1 + max(self.contents, default=-1)

    @property
    def end_of_text(self) -> int:
        """The special token that ends a text, by its name; else the last one, or a line end."""
        special = {token.content: token.id for token in self.added.tokens if token.special}
        for name in END_NAMES:
            if name in special:
                return special[name]
        return max(special.values(), default=self.tokens.get(b"\n", 0))


def read_tokenizer_file(data: JsonObject) -> TokenizerFile:
    """TokenizerError says what is not supported; KeyError, TypeError, ... for other content."""
    model = data["model"]
    _check_model(model, data)
    pattern = _split_pattern(data.get("pre_tokenizer"))
    normal_form = _normal_form(data.get("normalizer"))
    vocabulary: dict[str, int] = model["vocab"]
    _check_ids(vocabulary)
    added = _added_tokens(data.get("added_tokens") or (), vocabulary)
    texts = list(vocabulary)
    contents = all_to_bytes(texts)
    special = {token.content for token in added if token.special}
    tokens = {
        content: number
        for text, content, number in zip(texts, contents, vocabulary.values(), strict=True)
        if content is not None and (text not in special or len(content) == 1)
    }
    decoded = {
        number: text.encode("utf-8", "replace") if content is None else content
        for text, content, number in zip(texts, contents, vocabulary.values(), strict=True)
    }
    for one in added:
        decoded[one.id] = b"" if one.special else one.content.encode("utf-8", "replace")
    vocabulary_of = Vocabulary(texts, contents, tokens, {token.content for token in added})
    return TokenizerFile(
        tokens,
        decoded,
        AddedTokens(tuple(added), normal_form),
        pattern,
        merging_encoder(model, pattern.linear, vocabulary_of),
        data,
        bos_ids_of(data.get("post_processor"), 1 + max(decoded, default=-1)),
    )


# ---------------------------------------------------------------- what is supported


def _check_model(model: JsonObject, data: JsonObject) -> None:
    kind = model.get("type", "BPE")
    if kind == "Unigram" or model.get("byte_fallback") or _has_metaspace(data):
        raise TokenizerError(SENTENCEPIECE, fix=FIX)
    if kind != "BPE":
        raise TokenizerError(f"{str(kind)[:40]} tokenizers are not supported", fix=FIX)
    for name in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(name):
            raise TokenizerError(f"BPE with {name} is not supported", fix=FIX)


def _has_metaspace(data: JsonObject) -> bool:
    parts = [data.get(name) or {} for name in ("normalizer", "pre_tokenizer", "decoder")]
    steps = [step for part in parts for step in _steps(part)]
    return any(step.get("type") in ("Metaspace", "Prepend", "ByteFallback") for step in steps)


def _steps(part: JsonObject) -> list[JsonObject]:
    """The steps of a Sequence, or the one step that it is."""
    for name in ("normalizers", "pretokenizers", "decoders"):
        if name in part:
            return [inner for step in part[name] for inner in _steps(step)]
    return [part] if part else []


def _normal_form(normalizer: JsonObject | None) -> str:
    steps = [str(step.get("type")) for step in _steps(normalizer or {})]
    if not steps:
        return ""
    if len(steps) > 1 or steps[0] not in NORMAL_FORMS:
        raise TokenizerError(f"the normalizer {'+'.join(steps)[:80]} is not supported", fix=FIX)
    return steps[0]


def _split_pattern(pre_tokenizer: JsonObject | None) -> SplitPattern:
    """The known pattern for the steps of a pre-tokenizer, the last of which is ByteLevel."""
    *steps, last = _steps(pre_tokenizer or {}) or [{}]
    if last.get("type") != "ByteLevel":
        raise TokenizerError("only byte-level BPE is supported", fix=FIX)
    if last.get("add_prefix_space", True):
        raise TokenizerError("a tokenizer with add_prefix_space is not supported", fix=FIX)
    expressions = [_expression(step) for step in steps]
    if last.get("use_regex", True):
        expressions.append(GPT2_SPLIT_PATTERN)
    splits_digits_first = len(expressions) == 2 and expressions[0] == r"\p{N}"
    pattern = None
    if len(expressions) == 1 + splits_digits_first:
        pattern = find_pattern(expressions[-1], splits_digits_first)
    if pattern is None:
        shown = " then ".join(expressions)[:200] or "none"
        raise TokenizerError(
            f"the split pattern is unknown: {shown}",
            fix=f"supported are {', '.join(known_names())} (names of llama.cpp)",
        )
    return pattern


def _expression(step: JsonObject) -> str:
    """The regular expression of a step that makes each match a word."""
    kind = step.get("type")
    if kind == "Digits" and step.get("individual_digits"):
        return r"\p{N}"
    behavior = (str(step.get("behavior")).lower(), bool(step.get("invert")))
    # Known patterns match every character, so that nothing is removed between two matches.
    if kind == "Split" and behavior in (("isolated", False), ("removed", True)):
        return str(step["pattern"]["Regex"])
    raise TokenizerError(f"the pre-tokenizer step {str(kind)[:40]} is not supported", fix=FIX)


# ---------------------------------------------------------------- tokens


def _added_tokens(items: Sequence[JsonObject], vocabulary: Mapping[str, int]) -> list[AddedToken]:
    """As `tokenizers` reads them: those that are not in the vocabulary get the ids after it.

    The ids of the file are the same, unless another program wrote it.
    """
    if len(items) > MAX_ADDED_TOKENS:
        raise TokenizerError(f"the tokenizer has {len(items)} added tokens")
    ids: dict[str, int] = {}
    added, following = [], len(vocabulary)
    for item in items:
        content = item["content"]
        if not isinstance(content, str) or not content:
            raise TokenizerError("an added token is not a text")
        ids[content] = ids.get(content, vocabulary.get(content, following))
        following = max(following, ids[content] + 1)
        flags = ("special", "normalized", "single_word", "lstrip", "rstrip")
        added.append(AddedToken(content, ids[content], *(bool(item.get(flag)) for flag in flags)))
    return added


def _check_ids(vocabulary: Any) -> None:
    """TokenizerError unless the ids are small numbers, and no two tokens have the same."""
    if not isinstance(vocabulary, dict):
        raise TokenizerError("the tokenizer's vocabulary is not a list of tokens")
    ids = vocabulary.values()
    are_numbers = set(map(type, ids)) <= {int}  # not bool
    if not are_numbers or min(ids, default=0) < 0 or max(ids, default=0) >= MAX_ID:
        raise TokenizerError("the tokenizer has an id that is not a number of a token")
    if len(set(ids)) != len(ids):
        raise TokenizerError("two tokens of the tokenizer have the same id")
