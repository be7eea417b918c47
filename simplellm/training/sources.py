"""The texts of a run, as named by the user, and the corpora they are read into."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from simplellm.data.copies import without_copies
from simplellm.data.corpus import Corpus, read_corpus
from simplellm.data.prepared_corpus import train_characters
from simplellm.data.source import TextFormat
from simplellm.data.text_files import STDIN_NAME, shown_name
from simplellm.errors import Notice
from simplellm.storage.json_files import JsonObject
from simplellm.storage.user_paths import expand_user

MAX_NAMES_SHOWN = 3


class Corpora(NamedTuple):
    """The corpus of a run, and one for validation where it is not a part of the first."""

    train: Corpus
    validation: Corpus | None

    def describe_validation(self, val_fraction: float) -> str:
        """Which part of which files is validation text."""
        corpus = self.validation or self.train
        start = 0 if self.validation else train_characters(corpus.n_characters, val_fraction)
        parts: list[str] = []
        for source, n_characters in zip(corpus.sources, corpus.characters, strict=True):
            used = min(n_characters, n_characters - start)
            start = max(start - n_characters, 0)
            if used > 0:
                name = shown_name(source.name)
                whole = used == n_characters
                parts.append(name if whole else f"the last {used:,} characters of {name}")
        shown = parts[:MAX_NAMES_SHOWN]
        if len(parts) > MAX_NAMES_SHOWN:
            shown = [*parts[: MAX_NAMES_SHOWN - 1], f"{len(parts) - 2} more up to {parts[-1]}"]
        return ", ".join(shown)


@dataclass(frozen=True)
class Sources:
    """Names of the training texts and of the validation text (None: a part of them).

    files: what `texts` named when the run was started; a resumed run reads these.
    """

    texts: tuple[str, ...]
    val_data: str | None = None
    format: TextFormat = field(default_factory=TextFormat)
    files: tuple[str, ...] = ()

    def read(
        self,
        val_fraction: float,
        stdin: BinaryIO | None = None,
        notice: Notice = lambda text: None,
    ) -> Corpora:
        """Read the texts. What is in the validation text is left out of the training text.

        val_fraction: the last part of the text, which is validation text without `val_data`.
        """
        names = self.files or self.texts
        if not self.val_data:
            corpus = read_corpus(names, self.format, stdin, notice)
            if not self.format.keeps_copies:
                corpus = without_copies(corpus, val_fraction, notice)
            return Corpora(corpus, None)
        val_format = replace(self.format, keeps_duplicates=True)
        validation = read_corpus([self.val_data], val_format, stdin, notice)
        return Corpora(read_corpus(names, self.format, stdin, notice, validation), validation)

    def to_mapping(self) -> JsonObject:
        """As in run.json, with absolute paths."""
        return {
            "texts": absolute_paths(self.texts),
            "val_data": absolute_paths([self.val_data])[0] if self.val_data else None,
            **self.format.to_facts(),
        }

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Sources:
        """The sources recorded in run.json."""
        texts = tuple(facts["texts"])
        files = tuple(str(file["path"]) for file in facts.get("files", ()))
        return cls(
            texts,
            facts["val_data"],
            TextFormat.from_facts(facts),
            () if STDIN_NAME in texts else files,
        )


def absolute_paths(texts: Iterable[str]) -> list[str]:
    """Names of texts with existing paths made absolute."""
    expanded = [expand_user(text) for text in texts]
    return [str(Path(text).resolve()) if Path(text).exists() else text for text in expanded]
