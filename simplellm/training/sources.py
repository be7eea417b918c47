"""The texts of a run, as named by the user, and the corpora they are read into."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from simplellm.data.corpus import Corpus, read_corpus


class Corpora(NamedTuple):
    """The corpus of a run, and one for validation where it is not a part of the first."""

    train: Corpus
    validation: Corpus | None


@dataclass(frozen=True)
class Sources:
    """Names of the training texts and of the validation text (None: a part of them)."""

    texts: tuple[str, ...]
    val_data: str | None = None
    encoding: str = "utf-8"

    def read(self, stdin: BinaryIO | None = None) -> Corpora:
        corpus = read_corpus(self.texts, self.encoding, stdin)
        if not self.val_data:
            return Corpora(corpus, None)
        return Corpora(corpus, read_corpus([self.val_data], self.encoding, stdin))

    def to_mapping(self) -> dict[str, str | list[str] | None]:
        """As in run.json, with absolute paths."""
        return {
            "texts": absolute_paths(self.texts),
            "val_data": str(Path(self.val_data).resolve()) if self.val_data else None,
            "encoding": self.encoding,
        }


def absolute_paths(texts: Iterable[str]) -> list[str]:
    """Names of texts with existing paths made absolute."""
    return [str(Path(text).resolve()) if Path(text).exists() else text for text in texts]
