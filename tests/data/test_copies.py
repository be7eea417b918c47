"""Copies inside a text: left out where they reach the validation text, and nothing else."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from test_shared_passages import prose

from simplellm.data import repeated_passages
from simplellm.data.copies import NO_FIGURE, not_held_out, without_copies
from simplellm.data.corpus import Corpus, read_corpus
from simplellm.data.repeated_passages import fingerprints

LICENCE = "# " + prose(99, 100).replace("\n", "\n# ") + "\n"


def rest_of(folder: Path, *texts: str, suffix: str = ".txt") -> tuple[Corpus, list[str]]:
    """The corpus of files with these texts, and the notices."""
    for number, text in enumerate(texts):
        (folder / f"{number}{suffix}").write_text(text, encoding="utf-8")
    notices: list[str] = []
    return without_copies(read_corpus([str(folder)]), 0.1, notices.append), notices


def json_lines(*texts: str) -> str:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


def words(corpus: Corpus) -> list[str]:
    return corpus.text().split()


@pytest.mark.parametrize("times", [2, 3, 12])
@pytest.mark.parametrize("mark", ["", "“", "\n\n"], ids=["plain", "quoted", "blank"])
def test_a_text_several_times_in_one_file_is_the_text(
    tmp_path: Path, times: int, mark: str
) -> None:
    text = mark + prose(1) + "\n"
    corpus, notices = rest_of(tmp_path, text * times)
    assert corpus.text().rstrip() == text.rstrip() and corpus.copied_share == 0
    assert notices == [
        f"left out: {len(text) * (times - 1):,} characters of passages that occur more than once, "
        "some of them in training and validation text"
    ]
    assert corpus.n_bytes == len(corpus.text().encode())
    assert corpus.n_characters == len(corpus.text())


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\n\n"),
        lambda text: " ".join(text.split()),
        lambda text: text.replace("daal", "Daal", 2).replace("seen", "see", 3),
        lambda text: "The second edition.\n\n" + text,
    ],
    ids=["line ends", "wrapped", "words", "preface"],
)
def test_a_second_edition_is_left_out(tmp_path: Path, change: Callable[[str], str]) -> None:
    text = prose(1)
    corpus, notices = rest_of(tmp_path, text, change(text))
    assert corpus.text() == text and len(notices) == 1
    assert corpus.characters == (len(text), 0), "the second file stays known, for resume"


def test_a_repeated_chapter_is_left_out(tmp_path: Path) -> None:
    book, chapter = prose(1, 9000), prose(2, 600)
    corpus, notices = rest_of(tmp_path, chapter + book + chapter)
    assert words(corpus) == (chapter + book).split() and len(notices) == 1


def test_repeated_paragraphs_in_any_order_are_left_out(tmp_path: Path) -> None:
    paragraphs = [prose(number, 60) + "\n\n" for number in range(40)]
    copies = random.Random(0).sample(paragraphs, len(paragraphs))
    corpus, _ = rest_of(tmp_path, "".join([*paragraphs, *copies]))
    kept, all_words = words(corpus), "".join(paragraphs).split()
    assert kept[: len(all_words)] == all_words and len(kept) < 1.05 * len(all_words)
    assert corpus.copied_share < 0.1


def test_nearly_equal_json_lines_are_left_out(tmp_path: Path) -> None:
    records = [prose(number, 80) for number in range(30)]
    copies = [f"{number}. {text[:200]} and {text[200:]}" for number, text in enumerate(records[5:])]
    corpus, notices = rest_of(tmp_path, json_lines(*records, *copies), suffix=".jsonl")
    assert [chunk.text for chunk in corpus.chunks()] == records and len(notices) == 1


@pytest.mark.parametrize("n_words", [20, 120])
def test_templates_of_json_lines_are_kept(tmp_path: Path, n_words: int) -> None:
    template = "Answer in one word. " + prose(77, n_words)
    records = [template + prose(number, 40) for number in range(100)]
    corpus, notices = rest_of(tmp_path, json_lines(*records), suffix=".jsonl")
    assert [chunk.text for chunk in corpus.chunks()] == records and not notices


@pytest.mark.parametrize(
    "text",
    [
        prose(1),
        "".join(prose(number, 100) + "\n   and the wheels go round\n" for number in range(50)),
        "".join(LICENCE + prose(number, 900) for number in range(30)),
        prose(1, 2000) + LICENCE * 2 + prose(2, 9000),
        "\n".join(f"{number:05d};0;0;0;1" for number in range(3000)),
    ],
    ids=["prose", "refrain", "licences", "copies in the training text", "table"],
)
def test_ordinary_texts_are_not_changed(tmp_path: Path, text: str) -> None:
    corpus, notices = rest_of(tmp_path, text)
    assert corpus.sources[0].left_out == () and corpus.n_characters == len(text) and not notices


@pytest.mark.parametrize("sentence", ["The cat sat on the mat. ", "한글 문장 하나. ", "ab "])
def test_a_text_of_one_sentence_is_kept_and_has_no_figure(tmp_path: Path, sentence: str) -> None:
    corpus, notices = rest_of(tmp_path, sentence * 400)
    assert corpus.text() == sentence * 400 and corpus.copied_share >= NO_FIGURE
    assert "also in the training text" in not_held_out(corpus.copied_share) and not notices


@pytest.mark.parametrize("limit", [1 << 21, 100])
def test_equal_passages_have_a_fingerprint_in_common_in_texts_of_any_size(
    monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(repeated_passages, "MAX_FINGERPRINTS", limit)
    monkeypatch.setattr(repeated_passages, "BATCH_CHARACTERS", 700)
    first = "".join(prose(1).split())
    span = max(20, 2 * 2 * len(first) // limit)
    passage = first[5000 : 5000 + 79 + span]
    text = first + "".join(prose(2, 2000).split()) + passage + "".join(prose(3, 1000).split())
    found = fingerprints([text[:3000], "", text[3000:9000], text[9000:]], 2 * len(first))
    assert len(found.starts) < 2.5 * len(text) / span
    copied = found.starts[found.counts > 1]
    start = text.rindex(passage)
    assert copied.tolist() == sorted(
        [*copied[copied < 6000], *(copied[copied < 6000] - 5000 + start)]
    )
    assert len(copied) >= 2


@pytest.mark.parametrize("rest", ["", "a\n"])
def test_a_file_that_becomes_shorter_meanwhile_is_no_error_here(tmp_path: Path, rest: str) -> None:
    (tmp_path / "a.txt").write_text(prose(1), encoding="utf-8")
    corpus = read_corpus([str(tmp_path)])
    (tmp_path / "a.txt").write_text(rest, encoding="utf-8")
    assert without_copies(corpus, 0.1, lambda text: None) == corpus, "found when it is encoded"
