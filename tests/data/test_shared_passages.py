"""Passages of the validation text in a training text: found, left out, and nothing else."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from simplellm.data.corpus import Corpus, read_corpus
from simplellm.data.shared_passages import MIN_PASSAGE, PassageIndex, PassageSearch
from simplellm.errors import TextError

WORDS = [a + b + c for a in ("da", "그림", "mo", "se") for b in "aeiou" for c in "lnrt"]


def prose(seed: int, n_words: int = 3000) -> str:
    """Text of which no passage of MIN_PASSAGE characters occurs twice."""
    choices = random.Random(seed).choices(WORDS, k=n_words)
    return " ".join(word + ("\n" if number % 9 == 8 else "") for number, word in enumerate(choices))


def train_corpus(
    folder: Path, texts: dict[str, str], validation: str, val_name: str = "val.txt"
) -> tuple[Corpus, list[str]]:
    """The training corpus of files and a validation text, and the notices."""
    for name, text in {**texts, val_name: validation}.items():
        (folder / name).write_text(text, encoding="utf-8")
    notices: list[str] = []
    names = [str(folder / name) for name in texts]
    corpus = read_corpus(names, None, None, notices.append, read_corpus([str(folder / val_name)]))
    return corpus, notices


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 4000), (5000, 9000), (11000, None)], ids=["first", "middle", "last"]
)
@pytest.mark.parametrize(
    "change",
    [
        lambda text: text,
        lambda text: text.strip() + "\n\n",
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: " ".join(text.split()),
    ],
    ids=["same", "line ends", "CRLF", "mark", "wrapped"],
)
def test_a_part_of_a_file_is_left_out(
    tmp_path: Path, start: int, stop: int | None, change: Callable[[str], str]
) -> None:
    text = prose(1)
    corpus, notices = train_corpus(tmp_path, {"a.txt": text}, change(text[start:stop]))
    rest = text[:start] + (text[stop:] if stop else "")
    assert "".join(corpus.text().split()) == "".join(rest.split())
    assert "characters of" in notices[-1] and "also in the validation text" in notices[-1]
    assert corpus.n_bytes == len(corpus.text().encode())
    n_documents = sum(chunk.ends_document for chunk in corpus.chunks())
    assert n_documents == (2 if start and stop else 1), "the two sides are not joined"


def test_a_document_that_contains_the_validation_text_keeps_the_rest(tmp_path: Path) -> None:
    records = [prose(number, 300) for number in range(6)]
    lines = "".join(json.dumps({"text": record}) + "\n" for record in records)
    corpus, _ = train_corpus(tmp_path, {"a.jsonl": lines}, records[2] + records[4][:500])
    kept = [chunk.text.strip() for chunk in corpus.chunks()]
    rest = [*records[:2], records[3], records[4][500:], records[5]]
    assert kept == [text.strip() for text in rest]
    assert [chunk.line for chunk in corpus.chunks()] == [1, 2, 4, 5, 6]


def test_a_document_inside_the_validation_text_is_left_out_whole(tmp_path: Path) -> None:
    validation = prose(7)
    lines = [validation[1003:1503], prose(8, 200)]
    text = "".join(json.dumps({"text": line}) + "\n" for line in lines)
    corpus, _ = train_corpus(tmp_path, {"a.jsonl": text}, validation)
    assert corpus.text() == lines[1]


def test_short_records_in_a_row_are_found_in_a_file(tmp_path: Path) -> None:
    text = prose(3)
    records = [line for line in text[3000:6000].split("\n") if line.strip()]
    lines = "".join(json.dumps({"text": record}) + "\n" for record in records)
    corpus, _ = train_corpus(tmp_path, {"a.txt": text}, lines, "val.jsonl")
    assert len(corpus.text()) == pytest.approx(len(text) - 3000, abs=2 * MIN_PASSAGE)


def test_common_phrases_and_rules_do_not_count(tmp_path: Path) -> None:
    phrase = "Once upon a time there was a king, and the king had three daughters."
    shared = f"\n{'=' * 300}\n{phrase}\n{'. ' * 200}\n{'| - ' * 90}\n"
    assert len("".join(phrase.split())) < MIN_PASSAGE
    corpus, notices = train_corpus(tmp_path, {"a.txt": prose(1) + shared}, prose(2) + shared)
    assert corpus.text() == prose(1) + shared and not notices


def test_a_text_with_nothing_but_validation_text_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TextError, match="no text but that of the validation text"):
        train_corpus(tmp_path, {"a.txt": prose(1)[2000:5000]}, prose(1))


@pytest.mark.parametrize("offset", range(0, 20, 3))
def test_every_passage_of_the_shortest_length_is_found(offset: int) -> None:
    text = "".join(prose(1).split())
    passage = text[700 + offset : 700 + offset + MIN_PASSAGE]
    index = PassageIndex([text[:650], text[650:755], text[755:]])
    for size in (1, 40, 5000):
        search = PassageSearch(index)
        whole = "".join(prose(5).split()) + passage + "".join(prose(6).split())
        for start in range(0, len(whole), 5000):
            part = whole[start : start + 5000]
            for begin in range(0, len(part), max(size, 500)):
                search.add(part[begin : begin + max(size, 500)], False)
        search.add("", True)
        ((first, last),) = search.passages()
        start = whole.index(passage)
        assert start <= first < start + 20 and first + 80 <= last <= start + MIN_PASSAGE


def test_passages_at_the_edges_of_chunks_and_batches_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simplellm.data.source.CHUNK_CHARACTERS", 200)
    monkeypatch.setattr("simplellm.data.shared_passages.BATCH_CHARACTERS", 300)
    text = prose(1)
    corpus, _ = train_corpus(tmp_path, {"a.txt": text}, text[2000:6000])
    assert corpus.text().split() == (text[:2000] + " " + text[6000:]).split()
    begin = text[6000:].split()[0:6]
    after = next(chunk for chunk in corpus.chunks() if chunk.text.split()[1:6] == begin[1:])
    assert after.line == 1 + text[:6000].count("\n")
