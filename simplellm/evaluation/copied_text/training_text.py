"""The text a run was trained on, indexed for the search for copied passages.

The text is restored from the prepared token ids, or from the training files that are unchanged. The
validation part is excluded: the model was not trained on it.
"""

from __future__ import annotations

import codecs
import functools
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from simplellm.base import packaged
from simplellm.checkpoint.find_runs import run_of
from simplellm.checkpoint.importing.read_source import is_model
from simplellm.checkpoint.run import RunFolder
from simplellm.data.corpus import Corpus
from simplellm.data.prepared_corpus import (
    PREPARED_FOLDER,
    Prepared,
    find_prepared,
    is_prepared_name,
    prepared_name,
    train_characters,
)
from simplellm.data.shared_passages import Passage
from simplellm.data.source import Source, TextFormat
from simplellm.data.text_files import STDIN_NAME, is_json_lines
from simplellm.data.tokenizer import Tokenizer
from simplellm.data.utf8 import encodable
from simplellm.errors import CheckpointError, Notice, TextError
from simplellm.evaluation.copied_text.index_files import IndexSource, load_or_build
from simplellm.evaluation.copied_text.suffix_array import Shard, build_shards
from simplellm.evaluation.copied_text.words import DOCUMENT_MARK, words_of
from simplellm.storage.files import sha256_of
from simplellm.storage.json_files import JsonObject

TOKENS_PER_CHUNK = 1 << 18
NOTICE_CHARACTERS = 5_000_000  # takes about a second to index


class TrainingFile(NamedTuple):
    """A file of the training text, as recorded in run.json."""

    path: str  # absolute, or - for standard input
    sha256: str
    characters: int  # length of its text
    skipped_lines: tuple[int, ...] = ()  # JSON lines that were not used
    left_out: tuple[Passage, ...] = ()  # passages of the validation text


class Location(NamedTuple):
    """Where a passage occurs in the training text."""

    path: str
    line: int  # from 1, in the original file; in a .jsonl file the line of the record
    state: str  # what is wrong with the file now; empty if it is unchanged


@dataclass(frozen=True)
class TrainingText:
    """The index of a text and the files it comes from."""

    shards: Sequence[Shard]
    documents: np.ndarray  # (D, 2): file index and first line of each document
    files: Sequence[TrainingFile]

    def locate(self, words: np.ndarray, skipped: int) -> Location | None:
        """The first occurrence of the run of `words` (hashes), without its first `skipped` words.

        None if there is none, or if the documents are unknown.
        """
        found = (shard.first_position(shard.numbers(words)) for shard in self.shards)
        position = next((position for position in found if position is not None), None)
        if position is None or not len(self.documents):
            return None
        lines, marks = self._lines_and_marks
        document = int(np.searchsorted(marks, position, "right")) - 1
        source, line = self.documents[document].tolist()
        file = self.files[source]
        if not is_json_lines(file.path):
            ends = np.searchsorted(lines, [position + skipped, marks[document]], "right")
            line += int(np.subtract(*ends))
        return Location(file.path, line, file_state(file.path, file.sha256))

    @functools.cached_property
    def _lines_and_marks(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions (in words) where lines begin, and where documents begin."""
        lines = np.concatenate([shard.lines for shard in self.shards])
        return lines, np.concatenate([shard.marks for shard in self.shards])


class TrainingTexts(NamedTuple):
    """The training texts of a run that are still available."""

    texts: tuple[TrainingText, ...]  # of the run, and of the runs it was fine-tuned from
    missing: tuple[str, ...]  # one line for each text that is not available


def sampled_text(sample: str, chunks: Iterable[str], min_characters: int) -> TrainingText:
    """An index of a text in chunks that is only large enough to find the passages of `sample`.

    It does not know the documents. `min_characters` is the length of the shortest passage.
    """
    vocabulary = np.unique(words_of(encodable(sample)).hashes)
    min_run = min_characters // 2  # all characters may be wide and count twice
    return TrainingText(
        list(build_shards(chunks, vocabulary, min_run)), np.zeros((0, 2), np.uint32), ()
    )


def byte_chunks(ids: np.ndarray, tokenizer: Tokenizer, mark: bytes = b"") -> Iterator[bytes]:
    """The UTF-8 text of `ids` in chunks of about a megabyte, with `mark` before each document."""
    tokens = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    tokens[tokenizer.end_of_text] = b""
    tokens[tokenizer.document_mark] = mark
    for start in range(0, len(ids), TOKENS_PER_CHUNK):
        chunk = ids[start : start + TOKENS_PER_CHUNK].tolist()
        yield b"".join(map(tokens.__getitem__, chunk))


def text_chunks(ids: np.ndarray, tokenizer: Tokenizer) -> Iterator[str]:
    """The text of `ids` in chunks of about a megabyte, with DOCUMENT_MARK before each document."""
    mark = DOCUMENT_MARK.encode("utf-8", "surrogateescape")  # a byte that UTF-8 never contains
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    return map(decoder.decode, byte_chunks(ids, tokenizer, mark))


# ---------------------------------------------------------------- the texts of a run


def load_training_texts(run_path: Path, notice: Notice = lambda text: None) -> TrainingTexts:
    """The training texts of a run, indexed once; the index is cached beside the prepared ids.

    CheckpointError if no text of the run itself is available.
    """
    texts: list[TrainingText] = []
    missing: list[str] = []
    runs: list[Path] = []
    path: Path | None = run_path
    while path is not None and path not in runs:
        runs.append(path)
        try:
            info = _info_of(path)
            text, lacking = _training_text(path, info, notice)
        except CheckpointError as error:
            if path == run_path:
                raise
            name = "" if packaged.is_base(path) else f" {path.name}"
            missing.append(f"of its base model{name}: {error}")
            break
        texts.append(text)
        missing += lacking
        path = _base_of(info)
    return TrainingTexts(tuple(texts), tuple(missing))


def _base_of(info: JsonObject) -> Path | None:
    """The run or the model folder that a run was fine-tuned from."""
    start = str(info.get("from") or "")
    if start == packaged.BASE:
        return packaged.FOLDER
    return run_of(Path(start)).path if start else None


def _info_of(run_path: Path) -> JsonObject:
    """The content of run.json; CheckpointError for a model that was not trained here."""
    run = RunFolder(run_path)
    if packaged.is_base(run_path):
        raise CheckpointError("the package has no copy of the training text of its base model")
    if not (run_path / "run.json").exists() and is_model(run_path):
        raise CheckpointError(
            f"{run.name} was not trained here: it has no run.json that names its training text"
        )
    info = run.read_info()
    if source := run.imported_from():
        raise CheckpointError(
            f"{run.name} was imported from {source}; its training text is not known"
        )
    return info


class _Recorded(NamedTuple):
    """What run.json records of the training text."""

    files: list[TrainingFile]
    val_fraction: float | None  # None with a separate validation text
    format: TextFormat


def _recorded(run_path: Path, info: JsonObject) -> _Recorded:
    try:
        files = [
            TrainingFile(
                str(file["path"]),
                str(file["sha256"]),
                int(file["characters"]),
                tuple(map(int, file.get("skipped_lines", ()))),
                tuple((int(start), int(stop)) for start, stop in file.get("left_out", ())),
            )
            for file in info["files"]
        ]
        fraction = None if info["val_data"] else float(info["training"]["val_fraction"])
        return _Recorded(files, fraction, TextFormat.from_facts(info))
    except (KeyError, TypeError, ValueError, TextError) as error:
        raise CheckpointError(
            f"{run_path / 'run.json'} does not say what text {run_path.name} was trained on"
        ) from error


def _training_text(
    run_path: Path, info: JsonObject, notice: Notice
) -> tuple[TrainingText, list[str]]:
    """The text of one run and a line for each missing file: from prepared ids, else from files."""
    recorded = _recorded(run_path, info)
    folder, name = run_path.parent / PREPARED_FOLDER, str(info.get("prepared"))
    announce = _announcement(run_path.name, recorded.files, notice)
    if is_prepared_name(name):
        index = load_or_build(folder / name, lambda: _prepared_source(folder / name), announce)
        if index:
            return TrainingText(index.shards, index.documents, recorded.files), []
    problems = [_problem(file) for file in recorded.files]
    missing = [problem for problem in problems if problem]
    if len(missing) == len(recorded.files):
        raise CheckpointError(
            f"the text {run_path.name} was trained on is not available: {', '.join(missing)}",
            fix="restore it",
        )
    key = [recorded.files, recorded.val_fraction, recorded.format.encoding, missing]
    is_available = [not problem for problem in problems]
    index = load_or_build(
        folder / prepared_name(key), lambda: _file_source(recorded, is_available), announce
    )
    assert index is not None, "at least one file is available"
    return TrainingText(index.shards, index.documents, recorded.files), missing


def _announcement(name: str, files: Sequence[TrainingFile], notice: Notice) -> Callable[[], None]:
    """Shows a notice before a large text is indexed."""
    n_characters = sum(file.characters for file in files)
    if n_characters < NOTICE_CHARACTERS:
        return lambda: None
    millions = f"{n_characters / 1e6:,.0f} million characters"
    return functools.partial(notice, f"indexing the {millions} {name} was trained on, once")


def _prepared_source(folder: Path) -> IndexSource | None:
    prepared = find_prepared(folder)
    if prepared is None:
        return None
    return IndexSource(prepared_chunks(prepared), lambda: prepared.documents)


def prepared_chunks(prepared: Prepared) -> Iterator[str]:
    """The training data in chunks, with DOCUMENT_MARK before each document.

    A conversation is one line, because its lines are not those of its file.
    """
    marks, ids = prepared.marks, prepared.train_ids
    n_text = len(ids) if marks is None else marks.n_train_text
    if n_text:
        yield from text_chunks(ids[:n_text], prepared.tokenizer)
    for text in marks.train_conversations(prepared.tokenizer) if marks else ():
        yield DOCUMENT_MARK + encodable(" ".join(text.split()))


def _file_source(recorded: _Recorded, is_available: Sequence[bool]) -> IndexSource:
    """The training part of the files that are available."""
    documents = array("I")

    def chunks() -> Iterator[str]:
        n_characters = sum(file.characters for file in recorded.files)
        left = train_characters(n_characters, recorded.val_fraction)
        for number, file in enumerate(recorded.files):
            skipped = frozenset(file.skipped_lines)
            source = Source(file.path, recorded.format, None, skipped, file.left_out)
            corpus = Corpus((source,), (file.characters,), 0, {})
            begins_document = True
            for chunk in corpus.chunks(0, left) if is_available[number] and left > 0 else ():
                if begins_document:
                    documents.extend((number, chunk.line))
                    yield DOCUMENT_MARK
                yield encodable(chunk.text)
                begins_document = chunk.ends_document
            left -= file.characters

    return IndexSource(chunks(), lambda: np.array(documents, np.uint32).reshape(-1, 2))


# ---------------------------------------------------------------- the state of files


def file_state(path: str, sha256: str) -> str:
    """What is wrong with a training file now, in a few words; empty if it is unchanged."""
    if path == STDIN_NAME:
        return ""
    try:
        if not Path(path).is_file():  # a pipe is not read again
            return "is gone"
        stat = Path(path).stat()
        digest = _digest(path, stat.st_mtime_ns, stat.st_size)
        return "" if digest == sha256 else "has changed since"
    except (OSError, ValueError):
        return "cannot be read"


def _problem(file: TrainingFile) -> str:
    """Why a training file cannot be read again; empty if it can."""
    if file.path == STDIN_NAME:
        return "standard input was not kept"
    state = file_state(file.path, file.sha256)
    return f"{file.path} {state}" if state else ""


@functools.lru_cache(maxsize=64)
def _digest(path: str, modified_ns: int, size: int) -> str:
    return sha256_of(Path(path))
