"""The texts of a run, as named by the user, and the corpora they are read into."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from simplellm.data.conversations.options import TEXT, ReadOptions
from simplellm.data.copies import without_copies
from simplellm.data.corpus import Corpus, read_corpus
from simplellm.data.prepared_corpus import train_characters
from simplellm.data.source import TextFormat
from simplellm.data.text_files import STDIN_NAME, shown_name
from simplellm.errors import Notice, SettingError
from simplellm.storage.json_files import JsonObject
from simplellm.storage.user_paths import expand_user
from simplellm.training.conversation_sources import (
    ConversationData,
    conversation_data,
    sort_files,
)

MAX_NAMES_SHOWN = 3
NO_TEXT = Corpus((), (), 0, {})


class Corpora(NamedTuple):
    """The corpus of a run, and one for validation where it is not a part of the first.

    conversations: None for texts only; with them, the corpora may have no text.
    """

    train: Corpus
    validation: Corpus | None
    conversations: ConversationData | None = None

    @property
    def n_bytes(self) -> int:
        """UTF-8 bytes of the data."""
        return self.train.n_bytes + (self.conversations.n_bytes if self.conversations else 0)

    @property
    def fingerprint(self) -> dict[str, str]:
        """SHA-256 of each file of the training data, by its name."""
        own = self.conversations.fingerprint if self.conversations else {}
        return {**self.train.fingerprint, **own}

    @property
    def val_fingerprint(self) -> dict[str, str] | None:
        """SHA-256 of each file of separate validation data; None without."""
        if self.validation is None:
            return None
        own = self.conversations.val_fingerprint if self.conversations else {}
        return {**self.validation.fingerprint, **own}

    def describe_validation(self, val_fraction: float) -> str:
        """Which conversations, and which part of which files, are validation data."""
        parts = [self._describe_text(val_fraction)] if self._has_validation_text else []
        if self.conversations:
            n, of = len(self.conversations.split.held_out), self.conversations.val_files
            names = ", ".join(shown_name(file.source.name) for file in of[:MAX_NAMES_SHOWN])
            parts.append(f"{n:,} conversations" + (f" of {names}" if of else " that are held out"))
        return ", ".join(parts)

    @property
    def _has_validation_text(self) -> bool:
        return (self.validation or self.train).n_characters > 0

    def _describe_text(self, val_fraction: float) -> str:
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

    files: what `texts` named when the run was started; a resumed run reads these. reading: how
    conversations among them are read.
    """

    texts: tuple[str, ...]
    val_data: str | None = None
    format: TextFormat = field(default_factory=TextFormat)
    files: tuple[str, ...] = ()
    reading: ReadOptions = field(default_factory=ReadOptions)

    def read(
        self,
        val_fraction: float,
        stdin: BinaryIO | None = None,
        notice: Notice = lambda text: None,
    ) -> Corpora:
        """Read the texts. What is in the validation text is left out of the training text.

        val_fraction: the last part of the text, which is validation text without `val_data`, and
        the share of the conversations that are held out.
        """
        names = self.files or self.texts
        found = sort_files(names, self.reading, self.format, stdin, notice)
        val, stdin = None, found.stdin
        if self.val_data:
            val = sort_files([self.val_data], self.reading, self.format, stdin, notice)
            stdin = val.stdin
        conversations = None
        if found.conversations:
            val_files = val.conversations if val else None
            _check_validation(self.val_data, val_files)
            conversations = conversation_data(
                found.conversations, val_files, val_fraction, self.format, notice
            )
        elif val and val.conversations:
            raise SettingError(
                f"{self.val_data} has conversations, but there are none to train on",
                fix="name conversations, or --format text to read all files as texts",
            )
        texts = found.texts if conversations else None  # None: all of `names`
        _check_me(self.reading, names, texts)
        names = tuple(file.name for file in texts) if texts else names
        if texts == []:
            return Corpora(NO_TEXT, NO_TEXT if val else None, conversations)
        if not self.val_data or (val and conversations and not val.texts):
            corpus = read_corpus(names, self.format, stdin, notice, files=texts)
            if not self.format.keeps_copies and not val:
                corpus = without_copies(corpus, val_fraction, notice)
            return Corpora(corpus, NO_TEXT if val else None, conversations)
        val_format = replace(self.format, keeps_duplicates=True)
        val_texts = val.texts if val and conversations else None
        validation = read_corpus([self.val_data], val_format, stdin, notice, files=val_texts)
        corpus = read_corpus(names, self.format, stdin, notice, validation, texts)
        return Corpora(corpus, validation, conversations)

    def to_mapping(self) -> JsonObject:
        """As in run.json, with absolute paths."""
        return {
            "texts": absolute_paths(self.texts),
            "val_data": absolute_paths([self.val_data])[0] if self.val_data else None,
            **self.format.to_facts(),
            **_reading_facts(self.reading),
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
            _reading_of(facts),
        )


def _check_me(reading: ReadOptions, names: Sequence[str], texts: Sequence[object] | None) -> None:
    """SettingError where the person of --me can take part in no conversation: all is text."""
    if reading.me and texts is None:
        raise SettingError(
            f"--me names who replies in an exported chat, but {', '.join(names[:MAX_NAMES_SHOWN])} "
            "is read as a text",
            fix="--format whatsapp, or the name of another format of chats; or leave --me out",
        )


def _check_validation(val_data: str | None, files: Sequence[object] | None) -> None:
    """SettingError for a validation file without conversations, where these are trained."""
    if files == []:
        raise SettingError(
            f"the training data have conversations, but the validation data {val_data} have none",
            fix="name a file of conversations, or leave --val-data out",
        )


def _reading_facts(reading: ReadOptions) -> JsonObject:
    """How conversations are read, for run.json; runs of texts alone say nothing of it."""
    facts = {"format": reading.format, "me": reading.me, "gap_seconds": reading.gap_seconds}
    me = {"me": reading.me} if reading.me else {}
    return {} if reading == ReadOptions() else {"reading": facts, **me}


def _reading_of(facts: Mapping[str, Any]) -> ReadOptions:
    """The inverse of `_reading_facts`. Earlier versions read every file as a text."""
    if "reading" not in facts:
        return ReadOptions() if facts.get("conversations") else ReadOptions(format=TEXT)
    reading = facts["reading"]
    return ReadOptions(reading["format"], reading["me"], float(reading["gap_seconds"]))


def absolute_paths(texts: Iterable[str]) -> list[str]:
    """Names of texts with existing paths made absolute."""
    expanded = [expand_user(text) for text in texts]
    return [str(Path(text).resolve()) if Path(text).exists() else text for text in expanded]
