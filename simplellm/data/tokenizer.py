"""Tokenizer: byte-level BPE, trained on your own text or imported.

Any text can be encoded and any ids can be decoded. rustbpe trains the merges, tiktoken encodes.
The file format is Hugging Face's `tokenizer.json`: `AutoTokenizer` gives the same ids.
"""

from __future__ import annotations

import codecs
import functools
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import numpy as np
import tiktoken

from simplellm.data.added_tokens import AddedToken, AddedTokens
from simplellm.data.byte_pairs import BytePairEncoder
from simplellm.data.own_tokenizer_file import (
    END_OF_TEXT as END_OF_TEXT,
)
from simplellm.data.own_tokenizer_file import (
    Ranks,
    added_entry,
    is_own,
    own_mapping,
    read_own_mapping,
)
from simplellm.data.special_text import NO_STAND_INS, StandIns
from simplellm.data.split_patterns import (
    GPT2_SPLIT_PATTERN,
    SPLIT_PATTERN,
    TRAINING_PATTERN,
    SplitPattern,
    find_pattern,
)
from simplellm.data.tokenizer_file import TokenizerFile, read_tokenizer_file
from simplellm.data.utf8 import encodable
from simplellm.errors import TokenizerError
from simplellm.storage.json_files import JsonObject, json_bytes

LONG_WORD = 64  # characters; merging a word takes quadratic time
_FIX = "use the tokenizer saved with the model"


class Tokenizer:
    """Byte-level BPE with special tokens, which no text contains.

    ranks: bytes of a token -> id. pattern: the split pattern as in tokenizer.json; split_pattern
    has its name. end_of_text: id of the special token that ends a text. vocab_size: highest id + 1.
    bos_ids: special tokens before each text; those of an imported model, which expects them. A
    tokenizer that was trained here has none.
    """

    def __init__(
        self,
        ranks: Ranks,
        pattern: str = SPLIT_PATTERN,
        end_of_text: int | None = None,
        file: TokenizerFile | None = None,
    ) -> None:
        """Of `ranks` in the order of merging and one special token, or of an imported `file`."""
        self.ranks = ranks
        self.pattern = pattern
        self.end_of_text = len(ranks) if end_of_text is None else end_of_text
        self._file = file
        self.bos_ids = file.bos_ids if file else ()
        if file:
            self.split_pattern = file.pattern
            self._contents, self._added, self._encoder = file.contents, file.added, file.encoder
            self.vocab_size = file.vocab_size
        else:
            self.split_pattern = _known_pattern(pattern)
            self._contents = {rank: token for token, rank in ranks.items()}
            self._added = AddedTokens((AddedToken(END_OF_TEXT, self.end_of_text, special=True),))
            ids = np.arange(len(ranks), dtype=np.uint32)
            self._encoder = BytePairEncoder(self.split_pattern.linear, ranks, ids)
            self.vocab_size = max(len(ranks), self.end_of_text + 1)
        try:
            self._encoder.encode("")
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
    def added_tokens(self) -> tuple[AddedToken, ...]:
        """Tokens that are found before words are merged: special ones, and others by their text."""
        return self._added.tokens

    @property
    def special_tokens(self) -> dict[str, int]:
        """Tokens that only templates produce, by their texts."""
        return {token.content: token.id for token in self._added.tokens if token.special}

    def special_text(self, token: int) -> str | None:
        """The text of a special token, which `decode` leaves out; None for other ids."""
        return self._special_texts.get(token)

    @functools.cached_property
    def _special_texts(self) -> dict[int, str]:
        return {number: text for text, number in self.special_tokens.items()}

    def encode(self, text: str) -> list[int]:
        """Ids of `text`. It never contains special tokens: "<|endoftext|>" is encoded as text."""
        if self._added.is_plain:
            return self._encoder.encode(text)
        return self._encode_cut(text, with_special=False)

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a whole text: `bos_ids` and `encode`; END_OF_TEXT where both are empty.

        The ids of `AutoTokenizer` for the same text.
        """
        return [*self.bos_ids, *self.encode(text)] or [self.end_of_text]

    def encode_template(self, text: str, stand_ins: StandIns = NO_STAND_INS) -> list[int]:
        """Ids of a rendered template: the texts of special tokens in it become their ids.

        stand_ins: what hides such texts in what people wrote; see data/special_text.py.
        """
        return self._encode_cut(text, with_special=True, stand_ins=stand_ins)

    def template_parts(self, text: str) -> Iterator[str]:
        """A rendered template cut around its special tokens; `encode_template` of each is a part
        of the ids."""
        return self._added.parts(text)

    def encode_array(self, text: str) -> np.ndarray:
        """`encode` as a uint32 array; releases the interpreter lock."""
        if self._added.is_plain:
            return self._encoder.encode_array(text)
        return np.array(self.encode(text), dtype=np.uint32)

    def split(self, text: str) -> list[str]:
        """The words of `text`, which tokens never cross; their concatenation is the text."""
        return self._encoder.split(text)

    def document_start(self, *, is_first: bool) -> tuple[int, ...]:
        """Ids before the text of a document; of one that is not the first, also END_OF_TEXT."""
        if is_first and self.bos_ids:
            return self.bos_ids
        return (self.end_of_text, *self.bos_ids)

    @property
    def document_mark(self) -> int:
        """The id that each document has once, in `document_start`."""
        return (*self.bos_ids, self.end_of_text)[0]

    def _encode_cut(
        self, text: str, with_special: bool, stand_ins: StandIns = NO_STAND_INS
    ) -> list[int]:
        ids: list[int] = []
        for part in self._added.cut(text if stand_ins else encodable(text), with_special):
            if isinstance(part, AddedToken):
                ids.append(part.id)
            else:
                ids += self._encoder.encode(part.translate(stand_ins) if stand_ins else part)
        return ids

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
        order = self._encoder.ranks
        if order is None or not all(part in order for part in parts):
            return self.encode(word)
        merges = [order.get(left + right) for left, right in pairwise(parts)]
        while candidates := [
            (rank, i)
            for i, rank in enumerate(merges)
            if rank is not None and uniform() >= probability
        ]:
            _, i = min(candidates)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
            first, end = max(i - 1, 0), i + 2  # the pairs that the new part belongs to
            merges[first:end] = [
                order.get(left + right) for left, right in pairwise(parts[first:end])
            ]
        return [self.ranks[part] for part in parts]

    def token_bytes(self, token: int) -> bytes:
        """Bytes of one token, perhaps part of a character; none for special and unknown ids."""
        return self._contents.get(token, b"")

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`, without special tokens; invalid UTF-8 becomes U+FFFD."""
        return b"".join(self.token_bytes(token) for token in ids).decode("utf-8", "replace")

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """The text of each id, complete characters only; its concatenation is `decode(ids)`."""
        stream = TextStream(self)
        for token in ids:
            yield stream.push(token)
        yield stream.finish()

    def to_mapping(self) -> JsonObject:
        """The content of a Hugging Face `tokenizer.json`; an imported one is as it was read."""
        if self._file:
            return self._file.data
        return own_mapping(self.ranks, self.pattern, self.end_of_text)

    @classmethod
    def from_mapping(
        cls, data: JsonObject, source: str = "tokenizer.json", end_of_text: int | None = None
    ) -> Tokenizer:
        """The inverse of `to_mapping`, also for a byte-level BPE of another program.

        end_of_text: id of its token that ends a text; by default the one with a usual name.
        TokenizerError names `source`, and what is wrong or not supported.
        """
        try:
            if is_own(data):
                return cls(*read_own_mapping(data))
            file = read_tokenizer_file(data)
            end = file.end_of_text if end_of_text is None else end_of_text
            return cls(dict(file.tokens), file.pattern.expression, end, file)
        except TokenizerError as error:
            raise TokenizerError(f"{source}: {error}", fix=error.fix or _FIX) from error
        except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
            detail = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            if isinstance(error, TypeError | AttributeError):
                detail = "an entry has the wrong type"
            raise TokenizerError(
                f"{source} is not a byte-level BPE tokenizer: {detail:.200}", fix=_FIX
            ) from error

    def with_special_tokens(self, texts: Iterable[str]) -> Tokenizer:
        """This tokenizer with more special tokens, whose ids follow its last one.

        Texts that are special tokens already keep their ids. TokenizerError where the ids have
        gaps, so that other programs would give the new tokens other ids.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self.special_tokens]
        if not new:
            return self
        data = self.to_mapping()
        added = [added_entry(text, self.vocab_size + i) for i, text in enumerate(new)]
        data = {**data, "added_tokens": [*(data.get("added_tokens") or ()), *added]}
        tokenizer = Tokenizer.from_mapping(data, end_of_text=self.end_of_text)
        ids = [tokenizer.special_tokens[text] for text in new]
        if ids != [entry["id"] for entry in added]:
            raise TokenizerError(
                f"the tokenizer cannot get the special token {new[0]}: its ids have gaps, or it "
                "has an ordinary token of this text"
            )
        return tokenizer

    @property
    def fingerprint(self) -> str:
        """CRC-32 of the pattern and the vocabulary, as hexadecimal digits."""
        if self._file:
            return f"{zlib.crc32(json_bytes(self._file.data)):08x}"
        ranks = [[token.hex(), rank] for token, rank in self.ranks.items()]
        content = json.dumps([self.pattern, self.end_of_text, ranks])
        return f"{zlib.crc32(content.encode()):08x}"


def _known_pattern(expression: str) -> SplitPattern:
    pattern = find_pattern(expression)
    if pattern is None:  # others may take exponential time
        raise TokenizerError("the tokenizer has an unknown split pattern")
    return pattern


class TextStream:
    """Decodes ids one by one and holds the bytes of an incomplete character back."""

    def __init__(self, tokenizer: Tokenizer, errors: str = "replace") -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)

    def push(self, token: int) -> str:
        return self._decoder.decode(self._tokenizer.token_bytes(token))

    def finish(self) -> str:
        """U+FFFD for bytes that were held back; resets the stream."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text
