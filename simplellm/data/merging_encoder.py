"""The encoder for a vocabulary and a merge list of another program.

tiktoken encodes where it provably gives the same ids (merges.py), and the merger of single words in
byte_pairs.py elsewhere: for a merge list in another order than its tokens, and for texts with bytes
that have no token.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, cast

import numpy as np

from simplellm.data.byte_alphabet import N_BYTES
from simplellm.data.byte_pairs import BytePairEncoder, WordMerger
from simplellm.data.merges import NEVER, MergeList, merge_order
from simplellm.errors import TokenizerError
from simplellm.storage.json_files import JsonObject

MAX_WHOLE_WORDS = 2_000  # tokens that no merge builds, beyond which tiktoken is not used (guess)


@dataclass(frozen=True)
class Vocabulary:
    """texts: the tokens as they are written; contents: their bytes, None for those without.

    tokens: bytes -> id of the tokens that a text may become. added: texts that are cut off before.
    """

    texts: Sequence[str]
    contents: Sequence[bytes | None]
    tokens: dict[bytes, int]
    added: AbstractSet[str]


def merging_encoder(model: JsonObject, pattern: str, vocabulary: Vocabulary) -> BytePairEncoder:
    """`model` is the "model" of a tokenizer.json; TokenizerError if its merges are invalid."""
    merges = _merge_list(vocabulary.texts, model["merges"])
    words = _word_merger(model, merges, vocabulary)
    order = merge_order(merges)
    known = vocabulary.tokens
    is_known = np.fromiter(map(known.__contains__, vocabulary.contents), bool, len(order.ranks))
    is_built = order.ranks != NEVER
    ranks = _ranks(order.ranks, is_known & is_built, vocabulary.contents)
    whole = [
        token
        for i in np.flatnonzero(is_known & ~is_built).tolist()
        if (token := vocabulary.contents[i]) is not None
        and model.get("ignore_merges")
        and vocabulary.texts[i] not in vocabulary.added
    ]
    merges_to_unknown = (~is_known & is_built & (order.ranks >= 0)).any()
    if not order.is_regular or merges_to_unknown or _may_be_merged(whole, words):
        return BytePairEncoder(pattern, None, np.zeros(0, dtype=np.uint32), words)
    ranks |= {token: N_BYTES + len(merges.whole) + i for i, token in enumerate(whole)}
    ids = np.zeros(N_BYTES + len(merges.whole) + len(whole), dtype=np.uint32)
    ids[list(ranks.values())] = list(map(known.__getitem__, ranks))
    return BytePairEncoder(pattern, ranks, ids, words)


def _ranks(
    order: np.ndarray, is_used: np.ndarray, contents: Sequence[bytes | None]
) -> dict[bytes, int]:
    """The rank in tiktoken of the tokens that are used: single bytes first, then by their merge."""
    places = np.flatnonzero(is_used)
    ranks = N_BYTES + order[places]
    tokens = cast("list[bytes]", [contents[place] for place in places.tolist()])
    for i in np.flatnonzero(order[places] < 0):
        ranks[i] = tokens[i][0]
    return dict(zip(tokens, ranks.tolist(), strict=True))


def _word_merger(
    model: JsonObject, merges: MergeList, vocabulary: Vocabulary
) -> Callable[[], WordMerger]:
    """Returns the merger of single words, which is built when it is first needed."""

    @functools.cache
    def build() -> WordMerger:
        ids = np.array(list(model["vocab"].values()), dtype=np.int64)
        allowed = set(vocabulary.tokens.values())
        pairs = {
            (left, right): (order, whole)
            for order, (left, right, whole) in enumerate(
                zip(
                    ids[merges.left].tolist(),
                    ids[merges.right].tolist(),
                    ids[merges.whole].tolist(),
                    strict=True,
                )
            )
            if whole in allowed
        }
        unknown = model["vocab"][model["unk_token"]] if model.get("unk_token") else None
        fuses_unknown = bool(model.get("fuse_unk"))
        return WordMerger(
            vocabulary.tokens, pairs, bool(model.get("ignore_merges")), unknown, fuses_unknown
        )

    return build


def _may_be_merged(whole: Sequence[bytes], words: Callable[[], WordMerger]) -> bool:
    """Whether tiktoken may build one of these tokens, which are only found as whole words.

    It merges two tokens whose concatenation is a token; the merge list may leave them.
    """
    if not whole:
        return False
    merger = dataclasses.replace(words(), ignores_merges=False)
    return len(whole) > MAX_WHOLE_WORDS or any(len(merger.encode(token)) == 2 for token in whole)


def _merge_list(texts: Sequence[str], merges: Sequence[Any]) -> MergeList:
    index = dict(zip(texts, range(len(texts)), strict=True))
    lefts, rights = _columns(merges)
    try:
        columns = [
            np.fromiter(map(index.__getitem__, column), np.int64, len(merges))
            for column in (lefts, rights, map(str.__add__, lefts, rights))
        ]
    except KeyError as error:
        raise TokenizerError(f"a merge has no token {str(error)[:60]}") from error
    left, right, whole = columns
    # Of equal pairs the last one counts.
    _, from_end = np.unique((left * len(texts) + right)[::-1], return_index=True)
    kept = np.sort(len(merges) - 1 - from_end)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    return MergeList(lengths, left[kept], right[kept], whole[kept])


def _columns(merges: Sequence[Any]) -> tuple[Sequence[str], Sequence[str]]:
    """First and second tokens of merges, which are pairs or texts with one space."""
    try:
        if merges and isinstance(merges[0], str):
            merges = [merge.split(" ") for merge in merges]
        if not set(map(len, merges)) <= {2}:
            raise ValueError("not pairs")
        return list(map(itemgetter(0), merges)), list(map(itemgetter(1), merges))
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise TokenizerError("a merge is not a pair of tokens") from error
