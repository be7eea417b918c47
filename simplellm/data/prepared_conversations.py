"""Prepared conversations: their token ids and which of them are learned, cached on disk.

Texts of a mixed training come first: all of them are one document, which is learned as a whole.
See prepared_marks.py for the files beside those of a prepared corpus.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import shutil
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simplellm.data.chat_template import ChatTemplate
from simplellm.data.conversation_parts import fitting_parts, separate_replies
from simplellm.data.conversations.conversation import Conversation, Turn
from simplellm.data.conversations.split import Split
from simplellm.data.marked_ids import MarkedIds
from simplellm.data.prepared_corpus import (
    DOCUMENT_TYPE,
    PREPARED_FILES,
    PREPARED_VERSION,
    Prepared,
    TextSplit,
    find_prepared,
    id_type,
    prepared_name,
    recorded_documents,
    tokenizer_sample,
    write_ids,
)
from simplellm.data.prepared_marks import MARK_FILES, write_marks
from simplellm.data.tokenizer import Tokenizer
from simplellm.data.utf8 import utf8_length
from simplellm.errors import Notice
from simplellm.storage.files import digests_of, new_folder, write_file
from simplellm.storage.json_files import json_bytes

PARTS = ("train", "val")


@dataclass(frozen=True)
class ChatData:
    """Conversations of a training, and the texts that are trained with them, if there are any.

    files: names of the files of the conversations, in the order of run.json, after the texts.
    """

    split: Split
    files: tuple[str, ...] = ()
    texts: TextSplit | None = None


def encode_conversations(
    conversations: Sequence[Conversation],
    template: ChatTemplate,
    tokenizer: Tokenizer,
) -> MarkedIds:
    """The ids of each conversation as a document, and which of them are learned.

    Some templates need a document for each reply, see `separate_replies`.
    """
    parts = (part for one in conversations for part in separate_replies(one, template))
    encoded = [template.encode_learned(part.turns, tokenizer) for part in parts]
    dtype = id_type(tokenizer)
    ids = [np.array(ids, dtype) for ids, _ in encoded]
    learned = [np.array(flags, bool) for _, flags in encoded]
    starts = np.cumsum([0, *map(len, ids)], dtype=np.int64)
    nothing = np.zeros(0, dtype), np.zeros(0, bool)
    return MarkedIds(
        np.concatenate([nothing[0], *ids]), np.concatenate([nothing[1], *learned]), starts
    )


def prepare_conversations(
    data: ChatData,
    tokenizer: str | Tokenizer,
    template: ChatTemplate,
    special_tokens: Sequence[str],
    sizes: tuple[int, int],
    folder: Path,
    notice: Notice = lambda text: None,
) -> Prepared:
    """Encode conversations, or open what an earlier call wrote below `folder` for the same data.

    tokenizer: "bpe" is trained here, on the training part only; "gpt2"; or a tokenizer. It gets
    the `special_tokens` that it lacks. sizes: of the vocabulary, and of a block in tokens, between
    whose turns long conversations of the training part are cut.
    """
    vocab_size, block_size = sizes
    name = tokenizer if isinstance(tokenizer, str) else tokenizer.fingerprint
    key = [
        "conversations", PREPARED_VERSION, [_digest(part) for part in _parts(data.split)],
        data.texts.identity if data.texts else [],
        list(data.files), name, vocab_size if name == "bpe" else 0, block_size,
        template.source, list(special_tokens),
        list(tokenizer.bos_ids) if isinstance(tokenizer, Tokenizer) else [],
    ]  # fmt: skip
    target = folder / prepared_name(key)
    prepared = find_prepared(target)
    if prepared is None:
        shutil.rmtree(target, ignore_errors=True)
        ready = _tokenizer(data, tokenizer, vocab_size - len(special_tokens))
        ready = ready.with_special_tokens(special_tokens)
        try:
            _write(target, data, ready, template, block_size)
        except OSError:
            if find_prepared(target) is None:  # unless another process has written it meanwhile
                raise
        prepared = find_prepared(target)
    assert prepared is not None, "it was just written"
    return prepared


def _parts(split: Split) -> tuple[Sequence[Conversation], Sequence[Conversation]]:
    return split.train, split.held_out


def _digest(conversations: Sequence[Conversation]) -> str:
    whole = hashlib.sha256()
    for one in conversations:
        whole.update(repr([(turn.role, turn.text, turn.is_learned) for turn in one.turns]).encode())
    return whole.hexdigest()


# ---------------------------------------------------------------- tokenizer


def _tokenizer(data: ChatData, choice: str | Tokenizer, vocab_size: int) -> Tokenizer:
    if isinstance(choice, Tokenizer):
        return choice
    if choice == "gpt2":
        return Tokenizer.gpt2()
    return new_tokenizer(data, vocab_size)


def new_tokenizer(data: ChatData, vocab_size: int) -> Tokenizer:
    """A tokenizer of the words of all turns of the training part, and of the training texts.

    The names of the roles, which the template writes before each turn, are words too.
    """
    turns = (turn for one in data.split.train for turn in one.turns)
    words = (f"{turn.role}\n{turn.text}" for turn in turns)
    texts: Iterator[str] = tokenizer_sample(data.texts) if data.texts else iter(())
    return Tokenizer.train(itertools.chain(words, texts), vocab_size)


# ---------------------------------------------------------------- writing


def _write(
    target: Path, data: ChatData, tokenizer: Tokenizer, template: ChatTemplate, block_size: int
) -> None:
    limit = block_size + 1  # the last id is a target only

    def length(turns: Sequence[Turn]) -> int:
        return len(template.encode(turns, tokenizer, is_open=False))

    separate = (part for one in data.split.train for part in separate_replies(one, template))
    cut = [part for one in separate for part in fitting_parts(one, length, limit)]
    with new_folder(target) as temporary:
        write_file(temporary / "tokenizer.json", json_bytes(tokenizer.to_mapping()))
        origins, text_bytes = _write_texts(temporary, data.texts, tokenizer)
        n_sources = len(data.texts.train.sources) if data.texts else 0
        origins.extend(number for one in cut for number in _origin(one, data.files, n_sources))
        write_file(temporary / "documents.bin", np.array(origins, DOCUMENT_TYPE).tobytes())
        meta: dict[str, object] = {"val_text_bytes": text_bytes[1]}
        parts = zip(PARTS, (cut, data.split.held_out), _parts(data.split), text_bytes, strict=True)
        for part, conversations, whole, own_bytes in parts:
            marked = encode_conversations(conversations, template, tokenizer)
            meta[f"{part}_text_ids"] = _append(temporary, part, marked)
            meta[f"{part}_bytes"] = n_bytes(whole) + own_bytes
        meta["sha256"] = digests_of(temporary, (*PREPARED_FILES, *MARK_FILES))
        write_file(temporary / "meta.json", json_bytes(meta))


def _write_texts(
    folder: Path, texts: TextSplit | None, tokenizer: Tokenizer
) -> tuple[array[int], tuple[int, int]]:
    """Write the ids of both parts of the texts.

    Source and line of each training document, and the UTF-8 bytes of both parts.
    """
    documents = array("I")
    if texts is None:
        for part in PARTS:
            write_file(folder / f"{part}.bin", b"")
        return documents, (0, 0)
    chunks = recorded_documents(texts.train_chunks(), documents)
    train_bytes = write_ids(folder / "train.bin", chunks, tokenizer)
    return documents, (train_bytes, write_ids(folder / "val.bin", texts.val_chunks(), tokenizer))


def _append(folder: Path, part: str, marked: MarkedIds) -> int:
    """Add conversations to the ids of a part, and write the marks; returns the ids of the texts."""
    path = folder / f"{part}.bin"
    n_text = path.stat().st_size // marked.ids.dtype.itemsize
    with open(path, "ab") as file:
        file.write(marked.ids.tobytes())
    write_marks(folder, part, n_text, marked)
    return n_text


def _origin(conversation: Conversation, files: Sequence[str], n_before: int) -> tuple[int, int]:
    """The number of the file, after `n_before` others, and the line where a conversation begins."""
    file = next((n for n, name in enumerate(files) if conversation.source.startswith(name)), 0)
    line = re.search(r"line (\d+)", conversation.source.removeprefix(files[file] if files else ""))
    return n_before + file, int(line[1]) if line else 1


def n_bytes(conversations: Sequence[Conversation]) -> int:
    """UTF-8 bytes of the texts of all turns."""
    return sum(utf8_length(turn.text) for one in conversations for turn in one.turns)
