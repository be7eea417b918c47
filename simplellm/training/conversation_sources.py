"""Files of conversations among the texts of a run: found by their content, read and split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from simplellm.config.conversations import ConversationLengths
from simplellm.data.conversations.conversation import Conversation
from simplellm.data.conversations.duplicates import without_those_of
from simplellm.data.conversations.format import Format
from simplellm.data.conversations.options import ReadOptions
from simplellm.data.conversations.readers.registry import detect_format, named_format
from simplellm.data.conversations.reading import ConversationFile, joined, read_file
from simplellm.data.conversations.split import Split, split_conversations
from simplellm.data.corpus import open_source
from simplellm.data.source import Source, TextFormat
from simplellm.data.text_files import STDIN_NAME, TextFile, find_text_files
from simplellm.data.utf8 import utf8_length
from simplellm.errors import Notice, TextError

SPLIT_SEED = 0  # the same conversations are held out for every seed, so that runs compare
HEAD_BYTES = 1 << 16  # in which a file of conversations has a line end


class SortedFiles(NamedTuple):
    """texts: files that are plain text. conversations: the others, read.

    stdin: standard input again, where it was read to find out what it is.
    """

    texts: list[TextFile]
    conversations: list[ConversationFile]
    stdin: BinaryIO | None


@dataclass(frozen=True)
class ConversationData:
    """The conversations of a run. val_files: those of a validation file of its own."""

    split: Split
    files: tuple[ConversationFile, ...]
    val_files: tuple[ConversationFile, ...] = ()

    @property
    def fingerprint(self) -> dict[str, str]:
        """SHA-256 of each file, by its name."""
        return {file.source.name: file.source.sha256() for file in self.files}

    @property
    def val_fingerprint(self) -> dict[str, str]:
        return {file.source.name: file.source.sha256() for file in self.val_files}

    @property
    def n_bytes(self) -> int:
        """UTF-8 bytes of all turns of both parts, or of the training part with a validation file.

        As the size of a text, it decides about the settings.
        """
        parts = self.split.train if self.val_files else (*self.split.train, *self.split.held_out)
        return sum(map(_n_bytes, parts))

    @property
    def lengths(self) -> ConversationLengths:
        """Of the conversations that are trained."""
        return ConversationLengths.of(map(_n_bytes, self.split.train))


def _n_bytes(conversation: Conversation) -> int:
    return sum(utf8_length(turn.text) for turn in conversation.turns)


def sort_files(
    names: Sequence[str],
    options: ReadOptions,
    format: TextFormat,
    stdin: BinaryIO | None,
    notice: Notice,
) -> SortedFiles:
    """Read the files of conversations among those that `names` stand for."""
    if options.format is not None and named_format(options.format) is None:
        return SortedFiles(find_text_files(names), [], stdin)
    texts: list[TextFile] = []
    conversations: list[ConversationFile] = []
    for file in find_text_files(names):
        source = _source(file, options, format, stdin)
        found = _format_of(source, options) if source is not None else None
        if source is not None and source.name == STDIN_NAME:
            stdin = source.open()  # at its beginning: the format was found by reading it
        if source is None or found is None:
            texts.append(file)
            continue
        try:
            conversations.append(read_file(source, found, options, notice))
        except TextError as error:
            if not file.is_listed:
                raise
            notice(f"left out: {error}")
    return SortedFiles(texts, conversations, stdin)


def _source(
    file: TextFile, options: ReadOptions, format: TextFormat, stdin: BinaryIO | None
) -> Source | None:
    """The file, if it may be one of conversations. A pipe is read once only: by its reader."""
    if file.name != STDIN_NAME and options.format is None and not Path(file.name).is_file():
        return None
    try:
        return open_source(file.name, format, stdin)
    except TextError:
        if options.format is not None:
            raise
        return None  # the reader of texts reports it


def _format_of(source: Source, options: ReadOptions) -> Format | None:
    if options.format is not None:
        return named_format(options.format)
    try:
        with source.open() as file:
            head = file.read(HEAD_BYTES)
        begins_json = head.lstrip(b" \t\r\n\xef\xbb\xbf")[:1] in (b"{", b"[")
        if len(head) == HEAD_BYTES and b"\n" not in head and not begins_json:
            return None  # one line without an end may be larger than memory
        return detect_format(source, options)
    except (TextError, OSError):
        return None  # the reader of texts reports it


def conversation_data(
    files: Sequence[ConversationFile],
    val_files: Sequence[ConversationFile] | None,
    val_fraction: float,
    format: TextFormat,
    notice: Notice,
) -> ConversationData:
    """The conversations of `files`, without duplicates, split by whole conversations.

    val_files: those of a validation file; None holds out a part of `files`.
    """
    keeps = format.keeps_duplicates
    given = joined(files, notice, keeps_duplicates=keeps).conversations
    if val_files is None:
        return ConversationData(split_conversations(given, val_fraction, SPLIT_SEED), tuple(files))
    held_out = joined(val_files, keeps_duplicates=True, notice=notice).conversations
    train: Sequence[Conversation] = given if keeps else without_those_of(given, held_out, notice)
    if not train:
        raise TextError(
            "all conversations of the training data are also in the validation data",
            fix="name another --val-data, or leave it out",
        )
    return ConversationData(Split(tuple(train), held_out), tuple(files), tuple(val_files))
