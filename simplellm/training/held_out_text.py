"""The validation text of a finished run, read again."""

from __future__ import annotations

from collections.abc import Iterator

from simplellm.checkpoint.run import RunFolder
from simplellm.data.corpus import Corpus
from simplellm.data.prepared_corpus import (
    PREPARED_FOLDER,
    find_prepared,
    is_prepared_name,
    train_characters,
)
from simplellm.errors import CheckpointError, TextError
from simplellm.training.run_info import RunInfo


def held_out_documents(run: RunFolder) -> list[str]:
    """The validation documents of a run; empty where its files have changed or are gone.

    They come from the prepared ids, or from the texts themselves.
    """
    try:
        info = RunInfo.read(run)
    except CheckpointError:
        return []
    name = str(info.facts.get("prepared"))
    if is_prepared_name(name):
        prepared = find_prepared(run.path.parent / PREPARED_FOLDER / name)
        if prepared is not None:
            return prepared.val_documents()
    try:
        corpora = info.sources.read(info.training.val_fraction)
    except TextError:
        return []
    val_digests = list((corpora.val_fingerprint or {}).values())
    digests = list(corpora.fingerprint.values())
    if (digests, val_digests) != (info.text_digests, info.val_digests):
        return []
    conversations = corpora.conversations.split.held_out if corpora.conversations else ()
    chats = ["\n".join(turn.text for turn in one.turns) for one in conversations]
    if corpora.validation:
        return [*_documents(corpora.validation, 0), *chats]
    start = train_characters(corpora.train.n_characters, info.training.val_fraction)
    return [*_documents(corpora.train, start), *chats]


def _documents(corpus: Corpus, start: int) -> Iterator[str]:
    parts: list[str] = []
    for chunk in corpus.chunks(start):
        parts.append(chunk.text)
        if chunk.ends_document:
            yield "".join(parts)
            parts.clear()
    if parts:
        yield "".join(parts)
