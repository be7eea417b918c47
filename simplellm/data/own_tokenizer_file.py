"""tokenizer.json of tokenizers that were trained here: written for `transformers`, read back."""

from __future__ import annotations

from simplellm.data.byte_alphabet import BYTE_OF_CHARACTER, N_BYTES, to_characters
from simplellm.data.split_patterns import OWN_PATTERNS
from simplellm.errors import TokenizerError
from simplellm.storage.json_files import JsonObject

END_OF_TEXT = "<|endoftext|>"
Ranks = dict[bytes, int]  # bytes of a token -> id, in the order of merging


def own_mapping(ranks: Ranks, pattern: str, end_of_text: int) -> JsonObject:
    """The content of a Hugging Face `tokenizer.json`."""
    split = {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_entry(END_OF_TEXT, end_of_text)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": _model_mapping(ranks),
    }


def added_entry(text: str, number: int) -> JsonObject:
    """A special token in the "added_tokens" of a `tokenizer.json`."""
    return {
        "id": number,
        "content": text,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def is_own(data: JsonObject) -> bool:
    """Whether a tokenizer.json was written by `own_mapping`, perhaps damaged since.

    Not one to which another program has added tokens.
    """
    try:
        pattern = data["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        if any(item["content"] != END_OF_TEXT for item in data["added_tokens"]):
            return False
        is_ours = data["post_processor"] is None and data["model"]["ignore_merges"] is True
        return is_ours and pattern in OWN_PATTERNS and data.get("normalizer") is None
    except (LookupError, TypeError, AttributeError):
        return False


def read_own_mapping(data: JsonObject) -> tuple[Ranks, str, int]:
    """The inverse of `own_mapping`: ranks, pattern and the id of END_OF_TEXT."""
    ranks = {
        bytes(map(BYTE_OF_CHARACTER.__getitem__, token)): rank
        for token, rank in data["model"]["vocab"].items()
    }
    specials = {item["content"]: item["id"] for item in data["added_tokens"]}
    pattern = data["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    end_of_text = specials[END_OF_TEXT]
    _check_vocabulary(ranks, end_of_text)
    return ranks, pattern, end_of_text


def _check_vocabulary(ranks: dict[bytes, int], end_of_text: int) -> None:
    """TokenizerError unless the ids are 0, 1, 2, ... and each byte has one, as tiktoken assumes."""
    ids = [*ranks.values(), end_of_text]
    if any(type(number) is not int for number in ids) or sorted(ids) != list(range(len(ids))):
        raise TokenizerError(
            "the tokenizer's ids are not 0, 1, 2, ... once each",
            fix="use the tokenizer saved with the model",
        )
    if not all(bytes([byte]) in ranks for byte in range(N_BYTES)):
        raise TokenizerError(
            "the tokenizer has no token for some bytes",
            fix="use the tokenizer saved with the model",
        )


def _parents(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens that merge into `token`: its segmentation by merges of lower rank."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        best = min(
            range(len(parts) - 1),
            key=lambda i: _rank_below(parts[i] + parts[i + 1], ranks, ranks[token]),
        )
        if _rank_below(parts[best] + parts[best + 1], ranks, ranks[token]) == len(ranks) + 1:
            raise TokenizerError(f"token {token!r} cannot be built from merges of lower rank")
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts[0], parts[1]


def _model_mapping(ranks: dict[bytes, int]) -> JsonObject:
    """The "model" object of a `tokenizer.json`."""
    ordered = sorted(ranks, key=ranks.__getitem__)
    merges = [
        list(map(to_characters, _parents(token, ranks))) for token in ordered if len(token) > 1
    ]
    vocabulary = {to_characters(token): ranks[token] for token in ordered}
    return bpe_model(vocabulary, merges, ignore_merges=True)


def bpe_model(
    vocabulary: dict[str, int], merges: list[str] | list[list[str]], *, ignore_merges: bool
) -> JsonObject:
    """The "model" object of a byte-level BPE; `ignore_merges` encodes whole words first.

    merges: pairs, or each pair as one text with a space in between.
    """
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": ignore_merges,
        "vocab": vocabulary,
        "merges": merges,
    }


def _rank_below(token: bytes, ranks: dict[bytes, int], limit: int) -> int:
    rank = ranks.get(token, limit)
    return rank if rank < limit else len(ranks) + 1
