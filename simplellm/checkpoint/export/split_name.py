"""The name by which llama.cpp knows the split pattern of a tokenizer.

Runs of earlier versions have patterns of their own, which llama.cpp has no place for. They are
exported with the name of the pattern that gives the fewest other ids on their held-out text; among
equals, with the one that replaced theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from simplellm.checkpoint.export.exported_model import ExportedModel
from simplellm.data.split_patterns import EARLIER_GPT2_SPLIT_PATTERN, named_patterns
from simplellm.data.tokenizer import Tokenizer

MAX_CHARACTERS = 1_000_000  # of the held-out text that is compared; takes a second


def split_name(model: ExportedModel) -> str:
    """The name; `model.notice` says what differs where the pattern has none."""
    own = model.tokenizer.split_pattern
    if own.name:
        return own.name
    documents = _first(model.held_out(), MAX_CHARACTERS)
    n_ids = sum(len(model.tokenizer.encode(text)) for text in documents)
    counts = {
        name: differing_ids(model.tokenizer, pattern, documents)
        for name, pattern in named_patterns().items()
    }
    usual = "gpt-2" if model.tokenizer.pattern == EARLIER_GPT2_SPLIT_PATTERN else "llama-bpe"
    name = min(counts, key=lambda name: (counts[name], name != usual))
    differing = counts[name]
    found = f"{differing:,} of the {n_ids:,} ids of its held-out text differ"
    if not n_ids:
        found = "its held-out text is not there any more, so the ids that differ are not counted"
    elif not differing:
        found = f"all {n_ids:,} ids of its held-out text are the same"
    model.notice(
        f"{model.name} cuts words by a pattern that llama.cpp does not know, "
        f"so the file names the nearest one, {name}: {found}"
    )
    return name


def differing_ids(tokenizer: Tokenizer, pattern: str, documents: Sequence[str]) -> int:
    """How many ids of the documents are others, or stand for other bytes, with `pattern`."""
    other = Tokenizer(tokenizer.ranks, pattern, tokenizer.end_of_text)
    return sum(
        len(_spans(tokenizer, tokenizer.encode(text)) - _spans(other, other.encode(text)))
        for text in documents
    )


def _spans(tokenizer: Tokenizer, ids: Sequence[int]) -> set[tuple[int, int]]:
    """Each id with the number of the byte at which it ends."""
    ends = accumulate(len(tokenizer.token_bytes(token)) for token in ids)
    return set(zip(ids, ends, strict=True))


def _first(documents: Sequence[str], n_characters: int) -> list[str]:
    """The documents that begin within the first `n_characters`, the last one cut."""
    starts = accumulate((len(text) for text in documents), initial=0)
    return [
        text[: n_characters - start]
        for start, text in zip(starts, documents, strict=False)
        if start < n_characters
    ]
