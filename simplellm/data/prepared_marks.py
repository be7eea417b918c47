"""Marks of prepared conversations: where each begins, and which ids are learned.

Files beside the ids of a prepared corpus, for both parts of the split: `*_learned.bin` has a byte
for each id, `*_starts.bin` the first id of each document (int64). Texts of a mixed training come
first in the ids and are one document, which is learned as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simplellm.data.marked_ids import MarkedIds
from simplellm.data.tokenizer import Tokenizer
from simplellm.storage.files import write_file
from simplellm.storage.json_files import JsonMapping

STARTS_TYPE = np.dtype("<i8")
MARK_FILES = ("train_learned.bin", "train_starts.bin", "val_learned.bin", "val_starts.bin")


@dataclass(frozen=True)
class PreparedMarks:
    """The documents of a training with conversations.

    train: texts, if there are any, and conversations. val: held-out conversations. n_train_text,
    n_val_text: ids of texts, which come first in the files. val_text_bytes: UTF-8 bytes of the
    held-out text.
    """

    train: MarkedIds
    val: MarkedIds
    n_train_text: int
    n_val_text: int
    val_text_bytes: int

    @property
    def train_chats(self) -> MarkedIds:
        """The conversations of the training part, without the texts."""
        n_text, train = self.n_train_text, self.train
        starts = train.starts[1 if n_text else 0 :] - n_text
        return MarkedIds(train.ids[n_text:], train.is_learned[n_text:], starts)

    def first_question(self) -> list[int]:
        """The ids before the first held-out reply."""
        first = int(np.argmax(self.val.is_target))
        start = int(self.val.starts[np.searchsorted(self.val.starts, first, "right") - 1])
        return self.val.ids[start:first].tolist()

    def end_ids(self) -> tuple[int, ...]:
        """The tokens that end the held-out replies."""
        learned = self.val.is_target
        ends = learned & ~np.append(learned[1:], False)
        return tuple(np.unique(self.val.ids[ends]).tolist())

    def train_conversations(self, tokenizer: Tokenizer) -> Iterator[str]:
        """The text of each conversation of the training part, with the names of the roles."""
        documents = self.train
        first = 1 if self.n_train_text else 0
        for start, stop in zip(
            documents.starts[first:-1], documents.starts[first + 1 :], strict=True
        ):
            yield tokenizer.decode(documents.ids[start:stop].tolist())

    def val_conversations(self, tokenizer: Tokenizer) -> Iterator[str]:
        """The text of each held-out conversation, with the names of the roles."""
        for start, stop in zip(self.val.starts[:-1], self.val.starts[1:], strict=True):
            yield tokenizer.decode(self.val.ids[start:stop].tolist())


def write_marks(folder: Path, part: str, n_text: int, marked: MarkedIds) -> None:
    """The mark files of one part: `n_text` ids of texts, then the documents of `marked`."""
    learned = np.concatenate([np.ones(n_text, bool), marked.is_learned])
    starts = [*([0] if n_text else []), *(marked.starts + n_text).tolist()]
    write_file(folder / f"{part}_learned.bin", learned.astype(np.uint8).tobytes())
    write_file(folder / f"{part}_starts.bin", np.array(starts, STARTS_TYPE).tobytes())


def read_marks(
    folder: Path, meta: JsonMapping, train_ids: np.ndarray, val_ids: np.ndarray
) -> PreparedMarks:
    """What `write_marks` wrote for both parts; `meta` has the sizes of the texts."""
    n_train, n_val = int(meta["train_text_ids"]), int(meta["val_text_ids"])
    train = _read(folder, "train", train_ids)
    val = _read(folder, "val", val_ids)
    held_out = MarkedIds(
        val.ids[n_val:], val.is_learned[n_val:], val.starts[1 if n_val else 0 :] - n_val
    )
    return PreparedMarks(train, held_out, n_train, n_val, int(meta["val_text_bytes"]))


def _read(folder: Path, part: str, ids: np.ndarray) -> MarkedIds:
    learned = np.memmap(folder / f"{part}_learned.bin", np.uint8, "r").view(bool)
    starts = np.frombuffer((folder / f"{part}_starts.bin").read_bytes(), STARTS_TYPE)
    return MarkedIds(ids, learned, starts)
