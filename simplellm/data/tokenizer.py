"""Tokenizer: byte-level BPE, trained on your own text.

Any text can be encoded and any ids can be decoded. rustbpe trains the merges, tiktoken encodes.
The file format is Hugging Face's `tokenizer.json`: `AutoTokenizer` gives the same ids.
"""

from __future__ import annotations

import codecs
import functools
import json
import zlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import regex
import tiktoken

from simplellm.data.split_patterns import (
    GPT2_SPLIT_PATTERN,
    SPLIT_PATTERN,
    TRAINING_PATTERN,
    find_pattern,
)
from simplellm.data.utf8 import encodable
from simplellm.errors import TokenizerError
from simplellm.storage.json_files import JsonObject

END_OF_TEXT = "<|endoftext|>"

N_BYTES = 256
LONG_WORD = 256  # characters; no word of an earlier run is longer


class Tokenizer:
    """Byte-level BPE with `ranks` (bytes of a token -> id) and one special token, END_OF_TEXT."""

    def __init__(
        self, ranks: dict[bytes, int], pattern: str = SPLIT_PATTERN, end_of_text: int | None = None
    ) -> None:
        self.ranks = ranks
        self.pattern = pattern
        known = find_pattern(pattern)
        if known is None:  # others may take exponential time
            raise TokenizerError("the tokenizer has an unknown split pattern")
        self._linear_pattern = known.linear
        self._bytes = {rank: token for token, rank in ranks.items()}
        self.end_of_text = len(ranks) if end_of_text is None else end_of_text
        try:
            self._encoding = _encoding(tuple(ranks.items()), known.linear, self.end_of_text)
        except (ValueError, AssertionError, OverflowError) as error:
            raise TokenizerError(f"the tokenizer's vocabulary is inconsistent: {error}") from error

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Learn merges from `texts`, for at most `vocab_size` tokens including END_OF_TEXT."""
        import rustbpe

        trainer = rustbpe.Tokenizer()
        trainer.train_from_iterator(
            (encodable(text) for text in texts), vocab_size - 1, pattern=TRAINING_PATTERN
        )
        return cls({bytes(token): rank for token, rank in trainer.get_mergeable_ranks()})

    @classmethod
    def gpt2(cls) -> Tokenizer:
        """The tokenizer of GPT-2; tiktoken downloads its vocabulary once and caches it.

        TokenizerError if the vocabulary is neither cached nor reachable.
        """
        try:
            encoding = tiktoken.get_encoding("gpt2")
        except Exception as error:  # of requests, urllib3 or the system: no network, no folder
            name = type(error).__name__
            raise TokenizerError(
                f"GPT-2's vocabulary is not on this machine and cannot be downloaded ({name})",
                fix="use --tokenizer bpe, or go online once (cached in TIKTOKEN_CACHE_DIR)",
            ) from error
        return cls(dict(encoding._mergeable_ranks), GPT2_SPLIT_PATTERN, encoding.eot_token)

    @property
    def vocab_size(self) -> int:
        return max(len(self.ranks), self.end_of_text + 1)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`. It never contains special tokens: "<|endoftext|>" is encoded as text."""
        return self._encoding.encode(encodable(text), disallowed_special=())

    def encode_array(self, text: str) -> np.ndarray:
        """`encode` as a uint32 array; releases the interpreter lock."""
        return self._encoding.encode_to_numpy(encodable(text), disallowed_special=())

    def split(self, text: str) -> list[str]:
        """The words of `text`, which tokens never cross; their concatenation is the text."""
        return regex.findall(self._linear_pattern, encodable(text))

    def encode_with_dropout(
        self, word: str, probability: float, uniform: Callable[[], float]
    ) -> list[int]:
        """One random segmentation of a word: each merge is skipped with `probability`.

        BPE-dropout, Provilkov et al. 2020, algorithm 1. `uniform()` draws from [0, 1). The time is
        quadratic, so a long word is cut first.
        """
        if len(word) > LONG_WORD:
            cuts = range(0, len(word), LONG_WORD)
            pieces = [word[cut : cut + LONG_WORD] for cut in cuts]
            return [
                token
                for piece in pieces
                for token in self.encode_with_dropout(piece, probability, uniform)
            ]
        parts = [bytes([byte]) for byte in word.encode()]
        while len(parts) > 1:
            merges = [
                (rank, i)
                for i in range(len(parts) - 1)
                if (rank := self.ranks.get(parts[i] + parts[i + 1])) is not None
                and uniform() >= probability
            ]
            if not merges:
                break
            _, i = min(merges)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        return [self.ranks[part] for part in parts]

    def token_bytes(self, token: int) -> bytes:
        """Bytes of one token, perhaps part of a character; none for END_OF_TEXT and unknown ids."""
        return self._bytes.get(token, b"")

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`, without END_OF_TEXT; invalid UTF-8 becomes U+FFFD."""
        return b"".join(self.token_bytes(token) for token in ids).decode("utf-8", "replace")

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """The text of each id, complete characters only; its concatenation is `decode(ids)`."""
        stream = TextStream(self)
        for token in ids:
            yield stream.push(token)
        yield stream.finish()

    def to_mapping(self) -> JsonObject:
        """The content of a Hugging Face `tokenizer.json`."""
        split = {
            "type": "Split",
            "pattern": {"Regex": self.pattern},
            "behavior": "Isolated",
            "invert": False,
        }
        byte_level = {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": False,
        }
        special = {
            "id": self.end_of_text,
            "content": END_OF_TEXT,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [special],
            "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
            "post_processor": None,
            "decoder": byte_level,
            "model": _model_mapping(self.ranks),
        }

    @classmethod
    def from_mapping(cls, data: JsonObject, source: str = "tokenizer.json") -> Tokenizer:
        """The inverse of `to_mapping`; TokenizerError names `source` if the content is invalid."""
        try:
            ranks = {
                bytes(map(_BYTE_OF_CHARACTER.__getitem__, token)): rank
                for token, rank in data["model"]["vocab"].items()
            }
            specials = {item["content"]: item["id"] for item in data["added_tokens"]}
            pattern = data["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
            end_of_text = specials[END_OF_TEXT]
            if find_pattern(pattern) is None:
                raise KeyError("unknown split pattern")
            _check_vocabulary(ranks, end_of_text)
            return cls(ranks, pattern, end_of_text)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise TokenizerError(
                f"{source} is not a byte-level BPE tokenizer of this project: {error!r}",
                fix="use the tokenizer saved with the model",
            ) from error

    @property
    def fingerprint(self) -> str:
        """CRC-32 of the pattern and the vocabulary, as hexadecimal digits."""
        ranks = [[token.hex(), rank] for token, rank in self.ranks.items()]
        content = json.dumps([self.pattern, self.end_of_text, ranks])
        return f"{zlib.crc32(content.encode()):08x}"


@functools.lru_cache(maxsize=8)
def _encoding(
    ranks: tuple[tuple[bytes, int], ...], pattern: str, end_of_text: int
) -> tiktoken.Encoding:
    """Cached: it takes 33 ms to build, and a training run builds the same one three times."""
    return tiktoken.Encoding(
        "simplellm",
        pat_str=pattern,
        mergeable_ranks=dict(ranks),
        special_tokens={END_OF_TEXT: end_of_text},
    )


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


class TextStream:
    """Decodes ids one by one and holds the bytes of an incomplete character back."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return self._decoder.decode(self._tokenizer.token_bytes(token))

    def finish(self) -> str:
        """U+FFFD for bytes that were held back; resets the stream."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text


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
    merges = [list(map(_printable, _parents(token, ranks))) for token in ordered if len(token) > 1]
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": True,
        "vocab": {_printable(token): ranks[token] for token in ordered},
        "merges": merges,
    }


def _rank_below(token: bytes, ranks: dict[bytes, int], limit: int) -> int:
    rank = ranks.get(token, limit)
    return rank if rank < limit else len(ranks) + 1


def _byte_alphabet() -> dict[int, str]:
    """GPT-2's character for each byte: itself if it is printable, else one from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(N_BYTES) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {
        byte: chr(N_BYTES + i) for i, byte in enumerate(others)
    }


_CHARACTER_OF_BYTE = _byte_alphabet()
_BYTE_OF_CHARACTER = {character: byte for byte, character in _CHARACTER_OF_BYTE.items()}


def _printable(token: bytes) -> str:
    return "".join(map(_CHARACTER_OF_BYTE.__getitem__, token))
