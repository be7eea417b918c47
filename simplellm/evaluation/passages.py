"""What of a reply stands word for word in the text a model was trained on, and where.

A passage is a run of words that follow one another just so within one document of the training
text, and that have PASSAGE_CHARACTERS visible characters together; see `concordance` for what a word is.
The held-out part of a text does not count: the model has never seen it.
"""

from __future__ import annotations

import codecs
import functools
import json
import shutil
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from simplellm.checkpoint.run import Run
from simplellm.data.corpus import STDIN_NAME, Corpus, Source
from simplellm.data.prepared import (
    PREPARED_FOLDER,
    find_prepared,
    is_prepared_name,
    prepared_name,
    train_characters,
)
from simplellm.data.tokenizer import Tokenizer
from simplellm.errors import CheckpointError, Notice
from simplellm.evaluation.concordance import (
    BREAK,
    DOCUMENT_MARK,
    WIDE_FROM,
    Shard,
    Words,
    build,
    words_of,
)
from simplellm.storage.files import new_folder, sha256_of, write_file
from simplellm.storage.json_files import json_bytes

PASSAGE_CHARACTERS = (
    20  # visible ones, wide ones counted twice: a shorter passage may be a common phrase (guess)
)
MOST_PASSAGES = 5  # told of one reply
PROMPT_CHARACTERS = 2000  # of what stands before a reply are looked at
TOKENS_PER_PIECE = 1 << 18
TOLD_CHARACTERS = 5_000_000  # a second of sorting
INDEX_VERSION = f"1, Unicode {unicodedata.unidata_version}"
SHARD_ARRAYS = {"vocabulary": "<u8", "words": ">u4", "order": "<u4", "lines": "<i8", "marks": "<i8"}


class File(NamedTuple):
    """A file that was trained on, as run.json has it."""

    path: str  # absolute, or - for standard input
    sha256: str
    characters: int  # of its text


class Place(NamedTuple):
    """Where a passage stands in what a model was trained on."""

    path: str
    line: int  # from 1 on, of the file as it was; of a .jsonl file that of the record
    state: str  # what is wrong with the file now: nothing, or a few words


@dataclass(frozen=True)
class Passage:
    """A part of a reply that stands in the training text."""

    text: str  # as the reply has it
    began_before: bool  # in the prompt, of which `text` has nothing
    place: (
        Place | None
    )  # of the first of the places where it stands; None where files are not known


@dataclass(frozen=True)
class Copied:
    """How much of a reply stands word for word in the training text."""

    share: float  # of its visible characters
    passages: tuple[Passage, ...]  # the longest, longest first; none overlap


@dataclass(frozen=True)
class TrainingText:
    """The sorted words of a text, and the files it is from."""

    shards: Sequence[Shard]
    documents: np.ndarray  # (D, 2): which of the files, and the line it begins at
    files: Sequence[File]

    @functools.cached_property
    def _lines(self) -> tuple[np.ndarray, np.ndarray]:
        """The places (in words) at which a line begins, and those at which a document does."""
        return np.concatenate([shard.lines for shard in self.shards]), np.concatenate(
            [shard.marks for shard in self.shards]
        )

    def place(self, words: np.ndarray, skipped: int) -> Place | None:
        """Where the word `skipped` behind the first of these (hashes) stands, the first time they all do."""
        found = (shard.first_place(shard.numbers(words)) for shard in self.shards)
        first = next((place for place in found if place is not None), None)
        if first is None or not len(self.documents):
            return None
        lines, marks = self._lines
        number = int(np.searchsorted(marks, first, "right")) - 1
        source, line = self.documents[number].tolist()
        file = self.files[source]
        if not file.path.endswith(".jsonl"):
            line += int(
                np.subtract(*np.searchsorted(lines, [first + skipped, marks[number]], "right"))
            )
        return Place(file.path, line, file_state(file.path, file.sha256))


# ---------------------------------------------------------------- passages of a reply


def find_passages(
    reply: str, texts: Sequence[TrainingText], before: str = "", shortest: int = PASSAGE_CHARACTERS
) -> Copied:
    """The passages of `reply` in `texts`. One that began in the prompt `before` it is measured as a whole; what of it is
    in the reply counts as copied."""
    before = _encodable(before)[-PROMPT_CHARACTERS:]
    text = before + _encodable(reply)
    words = words_of(text)
    ends, widths = _furthest_ends(words.hashes, texts), _widths(text, words)
    reading = _Reading(text, len(before), words, np.append(0, np.cumsum(widths)), shortest)
    is_copied = _inside(len(text), *reading.stretches(ends))
    in_reply = np.s_[len(before) :]
    is_visible = widths[in_reply] > 0
    share = float((is_copied[in_reply] & is_visible).sum() / max(int(is_visible.sum()), 1))
    return Copied(
        share, tuple(_passage(reading, *bounds, texts) for bounds in _longest(reading, ends))
    )


class _Reading(NamedTuple):
    """A reply behind its prompt, as words."""

    text: str
    reply_start: int
    words: Words
    sizes: np.ndarray  # (characters + 1,): visible characters before each, wide ones counted twice
    shortest: int

    def stretches(self, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First character and end of each passage from a word to the word before number `ends` (0: there is none)."""
        begins, stops = (
            self.words.starts,
            self.words.ends[np.maximum(ends, 1) - 1] if len(ends) else ends,
        )
        is_passage = (ends > 0) & (self.sizes[stops] - self.sizes[begins] >= self.shortest)
        return begins[is_passage], stops[is_passage]


def _furthest_ends(hashes: np.ndarray, texts: Sequence[TrainingText]) -> np.ndarray:
    """For each word the number of the one behind the longest run of words from it on that stands in a text; 0: none does."""
    ends = np.zeros(len(hashes), np.int64)
    for shard in (shard for text in texts for shard in text.shards):
        numbers = shard.numbers(hashes)
        unknown = np.append(np.flatnonzero(numbers == BREAK), len(numbers))
        for i in np.flatnonzero(numbers).tolist():
            needle = numbers[i : unknown[np.searchsorted(unknown, i)]]
            if i + len(needle) > ends[i]:
                ends[i] = max(ends[i], i + shard.longest(needle))
    return ends


def _longest(reading: _Reading, ends: np.ndarray) -> Iterator[tuple[int, int]]:
    """First word and end of the passages with the longest parts in the reply, each without what those before it cover."""
    ends = ends.copy()
    for _ in range(MOST_PASSAGES):
        begins, stops = reading.stretches(ends)
        parts = reading.sizes[stops] - reading.sizes[np.maximum(begins, reading.reply_start)]
        if not (parts > 0).any():
            return
        best = int(np.argmax(parts))
        first = int(np.searchsorted(reading.words.starts, begins[best]))
        end = int(ends[first])
        yield first, end
        ends[first:end] = 0
        ends[:first] = np.minimum(ends[:first], first)


def _passage(reading: _Reading, first: int, end: int, texts: Sequence[TrainingText]) -> Passage:
    words = reading.words
    begin = max(int(words.starts[first]), reading.reply_start)
    skipped = int(np.searchsorted(words.ends[first:end], begin, "right"))
    places = (text.place(words.hashes[first:end], skipped) for text in texts)
    place = next((place for place in places if place is not None), None)
    passage = reading.text[begin : words.ends[end - 1]].strip()
    return Passage(passage, bool(words.starts[first] < reading.reply_start), place)


def _widths(text: str, words: Words) -> np.ndarray:
    """How much each character counts: nothing if it is white space."""
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    return _inside(len(text), words.starts, words.ends) * (1 + (codes >= WIDE_FROM))


def _inside(length: int, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """For each of so many characters whether it lies in one of these stretches."""
    return (
        np.cumsum(
            np.bincount(begins, minlength=length + 1) - np.bincount(ends, minlength=length + 1)
        )[:length]
        > 0
    )


def _encodable(text: str) -> str:
    """`text` as training would read it: with lone surrogates replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")


# ---------------------------------------------------------------- the text a run was trained on


def sampled_text(
    sample: str, texts: Iterable[str], shortest: int = PASSAGE_CHARACTERS
) -> TrainingText:
    """Just enough of a text (in pieces, see `text_pieces`) to find the passages of one sample, without places."""
    sought = np.unique(words_of(_encodable(sample)).hashes)
    return TrainingText(
        list(build(texts, sought, shortest // 2)), np.zeros((0, 2), np.uint32), ()
    )  # half: all may be wide


def text_pieces(ids: np.ndarray, tokenizer: Tokenizer) -> Iterator[str]:
    """The text behind `ids` in pieces of about a megabyte, DOCUMENT_MARK for END_OF_TEXT."""
    mark = DOCUMENT_MARK.encode("utf-8", "surrogateescape")  # a byte that is in no UTF-8
    tokens = [
        mark if token == tokenizer.end_of_text else tokenizer.token_bytes(token)
        for token in range(tokenizer.vocab_size)
    ]
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    for start in range(0, len(ids), TOKENS_PER_PIECE):
        yield decoder.decode(
            b"".join(map(tokens.__getitem__, ids[start : start + TOKENS_PER_PIECE].tolist()))
        )


class Trained(NamedTuple):
    """What a run was trained on, as far as it is still there."""

    texts: tuple[TrainingText, ...]  # of the run, and of those it goes on from
    missing: tuple[str, ...]  # a line for each text that is not among them


def trained_on(run_path: Path, notice: Notice = lambda text: None) -> Trained:
    """The texts of a run, sorted once and kept beside its prepared ids. CheckpointError where nothing of them is left."""
    texts: list[TrainingText] = []
    missing: list[str] = []
    runs: list[Path] = []
    path: Path | None = run_path
    while path is not None and path not in runs:
        runs.append(path)
        try:
            info = Run(path).read_info()
            text, gone = _trained_text(path, info, notice)
        except CheckpointError as error:
            if path == run_path:
                raise
            missing.append(f"of the model it goes on from, {path.name}: {error}")
            break
        texts.append(text)
        missing += gone
        path = Path(str(info["from"])).parent if info.get("from") else None
    return Trained(tuple(texts), tuple(missing))


def _trained_text(
    run_path: Path, info: Mapping[str, Any], notice: Notice
) -> tuple[TrainingText, list[str]]:
    """From what was prepared for the training; where that is gone, from the files that are as they were."""
    folder, name = run_path.parent / PREPARED_FOLDER, str(info.get("prepared"))
    try:
        files = [
            File(str(file["path"]), str(file["sha256"]), int(file["characters"]))
            for file in info["files"]
        ]
        fraction = None if info["val_data"] else float(info["training"]["val_fraction"])
        encoding = str(info["encoding"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{run_path / 'run.json'} does not say what text {run_path.name} was trained on"
        ) from error
    n_characters = sum(file.characters for file in files)
    told = f"sorting the {n_characters / 1e6:,.0f} million characters {run_path.name} was trained on, once"
    tell = functools.partial(notice, told) if n_characters >= TOLD_CHARACTERS else lambda: None
    if is_prepared_name(name) and (
        kept := _kept(folder / name, lambda: _prepared_text(folder / name), tell)
    ):
        return TrainingText(*kept, files), []
    lacks = [_lack(file) for file in files]
    missing = [lack for lack in lacks if lack]
    if len(missing) == len(files):
        raise CheckpointError(
            f"the text {run_path.name} was trained on is not there any more: {', '.join(missing)}",
            fix="put it back",
        )
    target = folder / prepared_name([files, fraction, encoding, missing])
    kept = _kept(
        target,
        lambda: _text_of_files(files, [not lack for lack in lacks], fraction, encoding),
        tell,
    )
    assert kept is not None, "some files are there"
    return TrainingText(*kept, files), missing


def _lack(file: File) -> str:
    """Why a file that was trained on cannot be read again; empty when it can."""
    if file.path == STDIN_NAME:
        return "standard input was not kept"
    state = file_state(file.path, file.sha256)
    return f"{file.path} {state}" if state else ""


def file_state(path: str, sha256: str) -> str:
    """What is wrong with a file that was trained on: nothing, or a few words."""
    if path == STDIN_NAME:
        return ""
    try:
        if not Path(path).is_file():  # a pipe is not read again
            return "is gone"
        stat = Path(path).stat()
        return (
            "" if _digest(path, stat.st_mtime_ns, stat.st_size) == sha256 else "has changed since"
        )
    except (OSError, ValueError):
        return "cannot be read"


@functools.lru_cache(maxsize=64)
def _digest(path: str, modified: int, size: int) -> str:
    return sha256_of(Path(path))


TextAndDocuments = tuple[
    Iterable[str], Callable[[], np.ndarray]
]  # the documents are known when the text has been read


def _prepared_text(folder: Path) -> TextAndDocuments | None:
    prepared = find_prepared(folder)
    return (
        None
        if prepared is None
        else (text_pieces(prepared.train_ids, prepared.tokenizer), lambda: prepared.documents)
    )


def _text_of_files(
    files: Sequence[File], is_there: Sequence[bool], fraction: float | None, encoding: str
) -> TextAndDocuments:
    """The training part of those files that are there."""
    documents = array("I")

    def pieces() -> Iterator[str]:
        left = train_characters(sum(file.characters for file in files), fraction)
        for number, file in enumerate(files):
            corpus = Corpus((Source(file.path, encoding),), (file.characters,), 0, {})
            begins_document = True
            for piece in corpus.chunks(0, left) if is_there[number] and left > 0 else ():
                if begins_document:
                    documents.extend((number, piece.line))
                    yield DOCUMENT_MARK
                yield _encodable(piece.text)
                begins_document = piece.ends_document
            left -= file.characters

    return pieces(), lambda: np.array(documents, np.uint32).reshape(-1, 2)


# ---------------------------------------------------------------- the index on the disk


def _kept(
    target: Path, make: Callable[[], TextAndDocuments | None], tell: Callable[[], None]
) -> tuple[list[Shard], np.ndarray] | None:
    """The index of a text, found again in `<target>-words`, or made of what `make` gives and kept there if that can be."""
    folder = target.with_name(f"{target.name}-words")
    if found := _load(folder):
        return found
    if (made := make()) is None:
        return None
    tell()
    shutil.rmtree(folder, ignore_errors=True)
    try:
        _save(folder, *made)
    except OSError:  # nothing can be written there, or another process was faster
        made = make() or made
        return _load(folder) or (list(build(made[0])), made[1]())
    return _load(folder)


def _save(folder: Path, texts: Iterable[str], documents: Callable[[], np.ndarray]) -> None:
    with new_folder(folder) as temporary:
        firsts = []
        for number, shard in enumerate(build(texts)):
            firsts.append(shard.first)
            for name, dtype in SHARD_ARRAYS.items():
                write_file(
                    temporary / f"{number}-{name}.bin", getattr(shard, name).astype(dtype).tobytes()
                )
        write_file(temporary / "documents.bin", documents().astype("<u4").tobytes())
        digests = {path.name: sha256_of(path) for path in sorted(temporary.iterdir())}
        write_file(
            temporary / "meta.json",
            json_bytes({"version": INDEX_VERSION, "firsts": firsts, "sha256": digests}),
        )


def _load(folder: Path) -> tuple[list[Shard], np.ndarray] | None:
    """None where the index is not there, not whole, or sorted by other rules."""
    try:
        meta = json.loads((folder / "meta.json").read_bytes())
        firsts = [int(first) for first in meta["firsts"]]
        names = [
            f"{number}-{name}.bin" for number in range(len(firsts)) for name in SHARD_ARRAYS
        ] + ["documents.bin"]
        if meta["version"] != INDEX_VERSION or any(
            sha256_of(folder / name) != meta["sha256"][name] for name in names
        ):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    shards = [
        Shard(
            first,
            *(
                _mapped(folder / f"{number}-{name}.bin", dtype)
                for name, dtype in SHARD_ARRAYS.items()
            ),
        )
        for number, first in enumerate(firsts)
    ]
    return shards, _mapped(folder / "documents.bin", "<u4").reshape(-1, 2)


def _mapped(path: Path, dtype: str) -> np.ndarray:
    return (
        np.memmap(path, dtype, mode="r").view(np.ndarray)
        if path.stat().st_size
        else np.zeros(0, dtype)
    )
