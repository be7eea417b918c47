"""Passages are real, as long as can be, and stand where they are said to; what has gone missing is said."""

from __future__ import annotations

import io
import json
import random
import shutil
import sys
import time
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from conftest import TINY_FLAGS
from hypothesis import example, given, settings
from hypothesis import strategies as st

from simplellm.app.cli import main
from simplellm.app.commands.command import Lines
from simplellm.app.commands.registry import dispatch
from simplellm.app.conversation import Turn
from simplellm.app.session import Session
from simplellm.config.sampling import SamplingParams
from simplellm.data.tokenizer import Tokenizer
from simplellm.errors import CheckpointError, SettingError
from simplellm.evaluation import passages
from simplellm.evaluation.concordance import DOCUMENT_MARK, build, words_of
from simplellm.evaluation.passages import (
    MOST_PASSAGES,
    PASSAGE_CHARACTERS,
    Copied,
    TrainingText,
    find_passages,
    sampled_text,
    text_pieces,
    trained_on,
)
from simplellm.inference.sampler import Sampler

NFD = unicodedata.normalize("NFD", "한글")
LETTERS = ["a", "bc", " ", "\n", ".", "é", "한", "我", NFD[0], NFD[1], "👩\u200d👧", "\udcff"]
texts = st.lists(st.sampled_from(LETTERS), max_size=50).map("".join)


def text_of(*documents: str) -> TrainingText:
    return TrainingText(
        list(build(DOCUMENT_MARK + document for document in documents)),
        np.zeros((0, 2), np.uint32),
        (),
    )


# ---------------------------------------------------------------- what a passage is


def words(text: str) -> list[tuple[int, int, str]]:
    found = words_of(text)
    return [
        (start, end, text[start:end])
        for start, end in zip(found.starts.tolist(), found.ends.tolist(), strict=True)
    ]


def size(text: str) -> int:
    return sum((2 if character >= "\u2e80" else 1) for character in text if not character.isspace())


def naive_passages(
    reply: str, documents: Sequence[str], before: str, shortest: int
) -> tuple[float, int]:
    """The share, and the size of the longest passage's part in the reply, by trying every run of words."""
    text, begin = before + reply, len(before)
    there = [[word for *_, word in words(document)] for document in documents]
    ours = words(text)
    copied: set[int] = set()
    longest = 0
    for i in range(len(ours)):
        for j in range(i + 1, len(ours) + 1):
            run = [word for *_, word in ours[i:j]]
            if size("".join(run)) >= shortest and any(
                run == document[k : k + len(run)]
                for document in there
                for k in range(len(document))
            ):
                inside = {
                    place for start, end, _ in ours[i:j] for place in range(max(start, begin), end)
                }
                copied |= inside
                longest = max(longest, size("".join(text[place] for place in inside)))
    visible = {place for start, end, _ in ours for place in range(max(start, begin), end)}
    return len(copied) / max(len(visible), 1), longest


@settings(deadline=None, max_examples=300)
@given(texts, st.lists(texts, min_size=1, max_size=3), texts, st.integers(1, 8))
@example("a a a", ["a a a a"], "", 3)
@example("bc a", ["a bc a"], "a ", 4)
def test_share_and_longest_passage_are_those_of_a_search_for_every_run_of_words(
    reply: str, documents: list[str], before: str, shortest: int
) -> None:
    documents = [document.replace("\udcff", "?") for document in documents]
    reply = reply[:20] + documents[0][3:15] + reply[20:]
    plain, plain_before = reply.replace("\udcff", "?"), before.replace("\udcff", "?")
    share, longest = naive_passages(plain, documents, plain_before, shortest)
    for text in (
        text_of(*documents),
        sampled_text(before + reply, [DOCUMENT_MARK.join(["", *documents])], shortest),
    ):
        found = find_passages(reply, [text], before, shortest)
        assert found.share == pytest.approx(share)
        assert (size(found.passages[0].text) if found.passages else 0) == longest
        check_passages(found, plain, documents, plain_before)


def check_passages(found: Copied, reply: str, documents: Sequence[str], before: str) -> None:
    """Each stands in the reply and in a document, apart from the others, and they come longest first."""
    sizes = [size(passage.text) for passage in found.passages]
    assert sizes == sorted(sizes, reverse=True) and len(sizes) <= MOST_PASSAGES
    for passage in found.passages:
        squeezed = "".join(passage.text.split())
        assert (
            reply.lstrip().startswith(passage.text)
            if passage.began_before
            else passage.text in reply
        )
        assert any(squeezed in "".join(document.split()) for document in documents)
        assert before or not passage.began_before
    assert sum(sizes) <= size(reply)


def test_white_space_is_not_compared_nor_counted() -> None:
    text = text_of("It was the best of times,\nit was the worst  of times.")
    found = find_passages("\n it was the worst\nof times. ", [text])
    assert found.share == 1.0 and found.passages[0].text == "it was the worst\nof times."
    assert find_passages("itwas the worst of times.", [text]).share < 1.0


@pytest.mark.parametrize(
    ("reply", "is_passage"),
    [
        ("abcde fghij klmno pqrst", True),
        ("abcde fghij klmno pqrs", False),
        ("나는 어제 학교에 갔습니다", True),
        ("어제 학교에 갔습니다", False),
        ("我昨天去了学校上课。", True),
        ("我昨天去了学校上课", False),
    ],
)
def test_a_passage_has_twenty_visible_characters_or_ten_wide_ones(
    reply: str, is_passage: bool
) -> None:
    assert (size(reply) >= PASSAGE_CHARACTERS) == is_passage
    found = find_passages(f"x {reply} y", [text_of(f"z {reply} z")])
    assert [passage.text for passage in found.passages] == [reply] * is_passage


def test_a_passage_ends_with_whole_words() -> None:
    text = text_of("the car that he had bought in the carpark yesterday")
    found = find_passages("hecar that he had bought in the carp", [text])
    assert [passage.text for passage in found.passages] == ["that he had bought in the"]
    assert (
        find_passages(
            unicodedata.normalize("NFD", "각나다라마바사아자차가"),
            [text_of("가나다라마바사아자차각")],
        ).share
        == 0
    )


def test_a_passage_does_not_cross_documents() -> None:
    assert (
        find_passages(
            "one two three four five six", [text_of("one two three", "four five six")]
        ).share
        == 0.0
    )


def test_a_passage_that_began_in_the_prompt_counts_with_its_part_in_the_reply() -> None:
    text = text_of("Once upon a time there was a king who had three sons")
    found = find_passages("on a time there was. Not so", [text], before="Then: Once up")
    assert [(passage.text, passage.began_before) for passage in found.passages] == [
        ("on a time there was", True)
    ]
    assert found.share == pytest.approx(15 / 21)
    assert find_passages("on a time", [text]).share == 0.0
    assert (
        find_passages("Nothing of it", [text], before="Once upon a time there was a king").passages
        == ()
    )


def test_the_longest_come_first_and_none_overlap() -> None:
    text = text_of(
        "a b c d e f g h i j k l m n o p q r s t u v w x y z " * 2,
        "9 8 7 6 5 4 3 2 1 0 w x y z " * 2,
    )
    alphabet = "a b c d e f g h i j k l m n o p q r s t u v w x y z"
    reply = f"9 8 7 6 5 4 3 2 1 0 w x y z {alphabet} ! {alphabet[:39]}"
    found = [passage.text for passage in find_passages(reply, [text], shortest=4).passages]
    assert found == [f"w x y z {alphabet}", alphabet[:39], "9 8 7 6 5 4 3 2 1 0"]


def test_a_reply_in_two_texts_is_found_in_both() -> None:
    parts = "the first of all these long sentences", "the second of all these long sentences"
    reply = ". ".join(parts)
    found = find_passages(reply, [text_of(parts[0]), text_of(parts[1])])
    assert {passage.text for passage in found.passages} == set(parts)
    assert found.share == pytest.approx(1 - 1 / size(reply)), "all but the stop between them"


@pytest.mark.parametrize("reply", ["", " \n ", "\udcff", "한", "word"])
def test_of_nothing_nothing_is_copied(reply: str) -> None:
    assert find_passages(reply, [text_of("some text")]) == Copied(0.0, ())
    assert find_passages(reply, [text_of("")]) == find_passages(reply, []) == Copied(0.0, ())


def test_the_text_behind_ids_is_cut_into_its_documents(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passages, "TOKENS_PER_PIECE", 2)
    ids = [
        tokenizer.end_of_text,
        *tokenizer.encode("가 a"),
        tokenizer.end_of_text,
        *tokenizer.encode("😀"),
    ]
    assert "".join(text_pieces(np.array(ids), tokenizer)) == f"{DOCUMENT_MARK}가 a{DOCUMENT_MARK}😀"


def test_a_reply_is_looked_up_in_milliseconds(story: str) -> None:
    vocabulary = story.split()
    text = text_of(" ".join(random.Random(1).choices(vocabulary, k=300_000)) + story)
    started_at = time.perf_counter()
    assert find_passages(story[1000:2000], [text]).share > 0.99
    assert time.perf_counter() - started_at < 0.5  # 0.01 measured alone


# ---------------------------------------------------------------- where it stands: a zoo of files


ZOO = {
    "crlf.txt": b"The first line of the crlf file\r\n\r\nThe third line of the crlf file\r\n",
    "cr.txt": b"The first line of the macintosh\rThe second line of the macintosh\r",
    "bom.txt": b"\xef\xbb\xbf" + b"The first line behind a mark\nThe second line behind a mark",
    "utf16.txt": "The first line in sixteen bits\r\n둘째 줄은 열여섯 비트로 쓰여 있다".encode(
        "utf-16"
    ),
    "empty.txt": b"",
    "records.jsonl": b'{"text": "The record of the first line"}\n\n{"text": ""}\n'
    + json.dumps({"text": "The record of the fourth line\nwhich goes on and on here"}).encode()
    + b"\r\n"
    + json.dumps({"text": "그 다섯째 줄에 있는 기록입니다"}).encode(),
    "이야기\x1b[31m.md": "\n\n셋째 줄에 있는 한글 이야기입니다\n\x0c\nAnd then there is the fifth line\n".encode(),
}
STANDS = [
    ("crlf.txt", 1, "The first line of the crlf file"),
    ("crlf.txt", 3, "The third line of the crlf file"),
    ("cr.txt", 2, "The second line of the macintosh"),
    ("bom.txt", 1, "The first line behind a mark"),
    ("bom.txt", 2, "The second line behind a mark"),
    ("utf16.txt", 1, "The first line in sixteen bits"),
    ("utf16.txt", 2, "둘째 줄은 열여섯 비트로 쓰여 있다"),
    ("records.jsonl", 1, "The record of the first line"),
    ("records.jsonl", 4, "The record of the fourth line"),
    ("records.jsonl", 4, "which goes on and on here"),
    ("records.jsonl", 5, "그 다섯째 줄에 있는 기록입니다"),
    ("이야기\x1b[31m.md", 3, "셋째 줄에 있는 한글 이야기입니다"),
    ("이야기\x1b[31m.md", 5, "And then there is the fifth line"),
]


def train(folder: Path, name: str, *arguments: str) -> Path:
    """A run trained for a step."""
    flags = ["--block-size", "8", "--batch-size", "1", "--n-layer", "1", "--max-steps", "1"]
    where = ["--name", name, "--checkpoints", str(folder / "runs")]
    assert main(["train", *arguments, *where, *TINY_FLAGS, *flags]) == 0
    return folder / "runs" / name


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with texts of all kinds in `texts`, and a run trained on them in `runs`."""
    folder = tmp_path_factory.mktemp("zoo")
    (folder / "texts").mkdir()
    for name, data in ZOO.items():
        (folder / "texts" / name).write_bytes(data)
    (folder / "held-out.txt").write_text(
        "This text is held out and no model has ever seen it. " * 9
    )
    train(folder, "zoo", str(folder / "texts"), "--val-data", str(folder / "held-out.txt"))
    return folder


@pytest.fixture
def copy(zoo: Path, tmp_path: Path) -> Path:
    """The run of the zoo, in a folder of its own with nothing beside it; its texts are the zoo's."""
    shutil.copytree(zoo / "runs" / "zoo", tmp_path / "zoo")
    return tmp_path / "zoo"


def places(run: Path, reply: str) -> list[tuple[str, int, str]]:
    found = find_passages(reply, trained_on(run).texts).passages
    return [
        (Path(place.path).name, place.line, place.state)
        for passage in found
        if (place := passage.place)
    ]


@pytest.mark.parametrize(("name", "line", "text"), STANDS)
def test_a_passage_stands_on_its_line_of_the_file(
    zoo: Path, name: str, line: int, text: str
) -> None:
    assert places(zoo / "runs" / "zoo", f"x {text} y") == [(name, line, "")]
    assert trained_on(zoo / "runs" / "zoo").missing == ()


def test_without_what_was_prepared_the_files_are_read(copy: Path) -> None:
    assert [places(copy, text) for *_, text in STANDS] == [
        [(name, line, "")] for name, line, _ in STANDS
    ]
    assert trained_on(copy).missing == () and len(list(copy.parent.glob(".prepared/*-words"))) == 1


def test_the_held_out_text_is_no_source(zoo: Path, tmp_path: Path) -> None:
    held_out = "This text is held out and no model has ever seen it."
    assert find_passages(held_out, trained_on(zoo / "runs" / "zoo").texts).share == 0
    lines = [f"This is the line of number {number} in the whole text" for number in range(100)]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    run = train(tmp_path, "split", str(tmp_path / "text.txt"))
    seen = [find_passages(line, trained_on(run).texts).share for line in lines]
    assert (
        seen[:89] == [1.0] * 89
        and max(seen[91:]) < 1.0
        and places(run, lines[88]) == [("text.txt", 89, "")]
    )
    shutil.rmtree(run.parent / ".prepared")
    from_file = [find_passages(line, trained_on(run).texts).share for line in lines]
    assert from_file == seen, "the files are read up to the same character"


def test_a_prompt_before_the_reply_does_not_change_the_line(zoo: Path) -> None:
    texts = trained_on(zoo / "runs" / "zoo").texts
    before = "The first line of the crlf file The third "
    (passage,) = find_passages("line of the crlf file the third thing", texts, before).passages
    assert passage.place and (passage.place.line, passage.began_before) == (3, True)


def test_the_index_is_made_once(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = zoo / "runs" / "zoo"
    expected = places(run, STANDS[0][2])
    monkeypatch.setattr(passages, "build", None)
    monkeypatch.setattr(passages, "find_prepared", None)
    assert places(run, STANDS[0][2]) == expected


def test_that_a_large_text_is_sorted_is_told_once(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    trained_on(copy, told.append)
    shutil.rmtree(copy.parent / ".prepared")
    monkeypatch.setattr(passages, "TOLD_CHARACTERS", 100)
    trained_on(copy, told.append)
    trained_on(copy, told.append)
    assert told == ["sorting the 0 million characters zoo was trained on, once"]


@pytest.mark.parametrize(
    "name", ["meta.json", "documents.bin", *(f"0-{name}.bin" for name in passages.SHARD_ARRAYS)]
)
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_index_is_made_again(zoo: Path, name: str, damage: str) -> None:
    run = zoo / "runs" / "zoo"
    expected = [places(run, text) for *_, text in STANDS]
    (index,) = (zoo / "runs" / ".prepared").glob("*-words")
    data = (index / name).read_bytes()
    (index / name).unlink()
    if damage != "remove":
        (index / name).write_bytes(
            data[:-3] if damage == "cut" else bytes([data[0] ^ 1]) + data[1:]
        )
    assert [places(run, text) for *_, text in STANDS] == expected
    assert (index / name).read_bytes() == data


def test_an_index_of_other_rules_is_made_again(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = zoo / "runs" / "zoo"
    places(run, "x")
    monkeypatch.setattr(passages, "INDEX_VERSION", "other rules")
    assert places(run, STANDS[0][2]) == [("crlf.txt", 1, "")]
    (index,) = (zoo / "runs" / ".prepared").glob("*-words")
    assert json.loads((index / "meta.json").read_text())["version"] == "other rules"


def test_where_nothing_can_be_written_the_index_stays_in_memory(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(passages, "new_folder", refuse)
    assert [places(copy, text) for *_, text in STANDS] == [
        [(name, line, "")] for name, line, _ in STANDS
    ]
    assert not (copy.parent / ".prepared").exists()


def test_a_file_that_changed_is_named_and_its_passages_are_still_found(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text(f"This is file {name} of the two there were\n" * 3)
    run = train(tmp_path, "two", str(tmp_path / "one.txt"), str(tmp_path / "two.txt"))
    (tmp_path / "one.txt").write_text("Something else by now")
    (tmp_path / "two.txt").unlink()
    assert places(run, "This is file one of the two there were") == [
        ("one.txt", 1, "has changed since")
    ]
    assert places(run, "This is file two of the two there were") == [("two.txt", 1, "is gone")]


def test_of_files_alone_those_that_are_as_they_were_are_used(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text(f"This is file {name} of the two there were\n" * 3)
    run = train(
        tmp_path,
        "two",
        str(tmp_path / "one.txt"),
        str(tmp_path / "two.txt"),
        "--val-fraction",
        "0.2",
    )
    shutil.rmtree(run.parent / ".prepared")
    (tmp_path / "one.txt").write_text("Something else by now")
    assert places(run, "This is file one of the two there were") == []
    assert places(run, "This is file two of the two there were") == [("two.txt", 1, "")]
    assert trained_on(run).missing == (f"{tmp_path / 'one.txt'} has changed since",)
    (tmp_path / "two.txt").unlink()
    with pytest.raises(CheckpointError, match="one.txt has changed since, .*two.txt is gone"):
        trained_on(run)


def test_standard_input_is_a_source_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = "The first line that was read\nThe second line that was read\n" * 4
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data.encode())))
    run = train(tmp_path, "piped", "-")
    assert places(run, "The second line that was read") == [("-", 2, "")]
    shutil.rmtree(run.parent / ".prepared")
    with pytest.raises(CheckpointError, match="standard input was not kept"):
        trained_on(run)


def test_a_file_may_have_a_name_that_is_no_text(tmp_path: Path) -> None:
    try:
        (tmp_path / "\udcff한.txt").write_text("The file with a name that nobody can read\n" * 4)
    except (OSError, UnicodeError):
        pytest.skip("this system has no such names")
    run = train(tmp_path, "nameless", str(tmp_path / "\udcff한.txt"))
    assert places(run, "The file with a name that nobody can read") == [("\udcff한.txt", 1, "")]


def test_what_the_base_of_a_model_was_trained_on_is_a_source_too(tmp_path: Path) -> None:
    (tmp_path / "old.txt").write_text("What the base was trained on before\n" * 5)
    (tmp_path / "new.txt").write_text("What the model was trained on after\n" * 5)
    base = train(tmp_path, "base", str(tmp_path / "old.txt"))
    code = main(["train", str(tmp_path / "new.txt"), "--from", "base", "--name", "fine", "--max-steps", "1", "--device", "cpu",
                 "--checkpoints", str(base.parent)])  # fmt: skip
    assert code == 0
    run = base.parent / "fine"
    assert places(run, "What the model was trained on after") == [("new.txt", 1, "")]
    assert places(run, "What the base was trained on before") == [("old.txt", 1, "")]
    shutil.rmtree(base)
    assert (
        places(run, "What the base was trained on before") == []
        and "base" in trained_on(run).missing[0]
    )


@pytest.mark.parametrize(
    "change",
    [
        {"files": None},
        {"files": [{"path": "a"}]},
        {"training": 3, "val_data": None},
        {"files": []},
        {"prepared": "../../x", "files": []},
    ],
)
def test_a_run_that_does_not_say_its_text_is_refused_in_a_line(
    copy: Path, change: dict[str, object]
) -> None:
    info = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({**info, **change}))
    with pytest.raises(CheckpointError, match=r"run.json does not say|is not there any more"):
        trained_on(copy)


# ---------------------------------------------------------------- /source


def session_of(run: Path, *turns: Turn) -> Session:
    return Session(cast(Sampler, None), run, SamplingParams(), turns=list(turns))


def test_source_shows_passages_with_file_and_line(
    zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, reply = (
        zoo / "runs" / "zoo",
        " line of the crlf file. Well, 셋째 줄에 있는 한글\n이야기입니다",
    )
    shown = dispatch(session_of(run, Turn("", "x"), Turn("He said: The third", reply)), "/source")
    path = zoo / "texts"
    assert isinstance(shown, Lines) and shown.text.splitlines() == [
        "84% of the reply stands word for word in the training text, in passages of 20 characters or more:",
        f"{path}/이야기\x1b[31m.md:3: 셋째 줄에 있는 한글 이야기입니다",
        f"{path}/crlf.txt:3: ...line of the crlf file",
    ]
    monkeypatch.chdir(path)
    shown = dispatch(session_of(run, Turn("", "The first line behind a mark")), "/source")
    assert isinstance(shown, Lines) and shown.text.splitlines()[1:] == [
        "bom.txt:1: The first line behind a mark"
    ]


def test_source_says_when_nothing_is_copied(zoo: Path) -> None:
    for reply in ("", "Never written before, by nobody at all"):
        shown = dispatch(
            session_of(zoo / "runs" / "zoo", Turn("The first line of the crlf file", reply)),
            "/source",
        )
        said = "stands word for word in the training text, in passages of 20 characters or more"
        assert shown == Lines(f"nothing of the reply {said}")


def test_source_says_what_changed_and_what_is_gone(copy: Path, tmp_path: Path) -> None:
    info = json.loads((copy / "run.json").read_text())
    info["files"][0]["sha256"] = "0" * 64
    (copy / "run.json").write_text(json.dumps(info))
    shown = dispatch(session_of(copy, Turn("", "The first line behind a mark")), "/source")
    assert (
        isinstance(shown, Lines)
        and shown.text.splitlines()[-1]
        == f"not looked at: {info['files'][0]['path']} has changed since"
    )
    with pytest.raises(SettingError, match="nothing has been said"):
        dispatch(session_of(copy), "/source")
    with pytest.raises(CheckpointError, match="cannot read"):
        dispatch(session_of(tmp_path / "none", Turn("", "a")), "/source")


def test_source_says_that_a_file_changed_behind_its_passage(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("This is the file of which there is one\n" * 5)
    run = train(tmp_path, "one", str(tmp_path / "one.txt"))
    (tmp_path / "one.txt").write_text("Something else by now")
    shown = dispatch(session_of(run, Turn("", "This is the file of which there is one")), "/source")
    where = f"{tmp_path}/one.txt:1 (has changed since)"
    assert (
        isinstance(shown, Lines)
        and shown.text.splitlines()[1] == f"{where}: This is the file of which there is one"
    )
