"""Reads files of conversations: detects their format, and reports what was read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from simplellm.data.conversations.conversation import Conversation
from simplellm.data.conversations.duplicates import without_duplicates
from simplellm.data.conversations.format import Format
from simplellm.data.conversations.normal_form import normal_form
from simplellm.data.conversations.options import ReadOptions
from simplellm.data.conversations.readers.registry import FORMATS, detect_format
from simplellm.data.conversations.summary import Summary, reasons, total
from simplellm.data.corpus import MAX_NAMES_SHOWN, open_source
from simplellm.data.source import Source, TextFormat, report_bad_lines
from simplellm.data.text_files import TextFile, find_text_files
from simplellm.errors import Notice, TextError


@dataclass(frozen=True)
class ConversationFile:
    """One file: its conversations in normal form, in order, and what was read."""

    source: Source
    conversations: tuple[Conversation, ...]
    summary: Summary


@dataclass(frozen=True)
class ConversationSet:
    """The conversations of all files, without duplicates."""

    files: tuple[ConversationFile, ...]
    conversations: tuple[Conversation, ...]

    @property
    def summary(self) -> Summary:
        """What was read from all files, duplicates included."""
        return total(file.summary for file in self.files)

    @property
    def fingerprint(self) -> dict[str, str]:
        """SHA-256 of the bytes of each file, by its name."""
        return {file.source.name: file.source.sha256() for file in self.files}


def read_conversations(
    texts: Sequence[str],
    options: ReadOptions | None = None,
    format: TextFormat | None = None,
    stdin: BinaryIO | None = None,
    notice: Notice = lambda text: None,
) -> ConversationSet:
    """The conversations of files, folders, globs and `-` (standard input).

    Notices report what was read from each file, and what was left out. TextError if a file has no
    conversations; SettingError if `options` do not fit.
    """
    options = options or ReadOptions()
    format = format or TextFormat()
    files = [
        read
        for file in find_text_files(texts, notice)
        if (read := _read_listed(file, options, format, stdin, notice))
    ]
    names = ", ".join(texts[:MAX_NAMES_SHOWN])
    if not files:
        raise TextError(f"there are no conversations in {names}", fix="name a file that has some")
    return joined(files, notice, keeps_duplicates=format.keeps_duplicates)


def _read_listed(
    file: TextFile,
    options: ReadOptions,
    format: TextFormat,
    stdin: BinaryIO | None,
    notice: Notice,
) -> ConversationFile | None:
    """Read a file; one that a folder listed is left out, with a notice, if that is impossible."""
    try:
        source = open_source(file.name, format, stdin)
        detected = detect_format(source, options)
        if detected is None:
            raise TextError(
                f"{source.name} has no conversations in a known format",
                fix=f"--format NAME forces one: {', '.join(FORMATS)}",
            )
        return read_file(source, detected, options, notice)
    except TextError as error:
        if not file.is_listed:
            raise
        notice(f"left out: {error}")
        return None


def read_file(
    source: Source,
    format: Format,
    options: ReadOptions,
    notice: Notice = lambda text: None,
) -> ConversationFile:
    """The conversations of one file in this format, in normal form.

    Notices report what was read, and bad records that are left out. TextError if no conversation
    has a reply, or if more records are bad than `source.format.max_bad_share` allows.
    """
    conversations: list[Conversation] = []
    bad: list[TextError] = []
    dropped: Counter[str] = Counter()
    speakers: Counter[str] = Counter()
    n_found = 0
    for where, turns in format.read(source, options, dropped):
        n_found += 1
        if isinstance(turns, TextError):
            if not source.format.max_bad_share:
                raise turns
            bad.append(turns)
            continue
        speakers.update(turn.name or turn.role for turn in turns if turn.text.strip())
        if conversation := normal_form(turns, f"{source.name} {where}", dropped):
            conversations.append(conversation)
    report_bad_lines(source.name, bad, n_found, source.format, notice)
    if not conversations:
        raise _nothing_to_learn(source, format, dropped, speakers)
    summary = Summary.of(format.name, conversations, speakers, dropped)
    for line in summary.lines():
        notice(f"{source.name}: {line}")
    return ConversationFile(source, tuple(conversations), summary)


def joined(
    files: Iterable[ConversationFile], notice: Notice, *, keeps_duplicates: bool = False
) -> ConversationSet:
    """The files as one set; a notice says how many conversations occur more than once."""
    files = tuple(files)
    conversations = [one for file in files for one in file.conversations]
    if not keeps_duplicates:
        conversations = without_duplicates(conversations, notice)
    return ConversationSet(files, tuple(conversations))


def _nothing_to_learn(
    source: Source, format: Format, dropped: Counter[str], speakers: Counter[str]
) -> TextError:
    what = f"{source.name} has no conversation with a reply (format {format.name})"
    fix = "check --format and --me" if format.uses_me else "check --format"
    if len(speakers) == 1 and format.uses_me:
        what += f": only {next(iter(speakers))} writes"
        fix = f"use the whole chat, with the messages of everyone, or {fix}"
    if +dropped:
        what += f"; left out: {reasons(+dropped)}"
    return TextError(what, fix=fix)
