"""The training text of a run: where passages occur, the index on disk, and missing files."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from conftest import TINY_FLAGS

from simplellm.app.cli import main
from simplellm.app.commands.registry import dispatch
from simplellm.app.conversation import Turn
from simplellm.app.results import Lines
from simplellm.app.session import Session
from simplellm.config.sampling import SamplingParams
from simplellm.data.tokenizer import Tokenizer
from simplellm.errors import CheckpointError, SettingError
from simplellm.evaluation.copied_text import index_files as index_files
from simplellm.evaluation.copied_text import training_text as training_text
from simplellm.evaluation.copied_text.passages import find_passages
from simplellm.evaluation.copied_text.training_text import load_training_texts, text_chunks
from simplellm.evaluation.copied_text.words import DOCUMENT_MARK
from simplellm.inference.sampler import Sampler

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
    "이야기\x1b[31m.md": (
        "\n\n셋째 줄에 있는 한글 이야기입니다\n\x0c\nAnd then there is the fifth line\n"
    ).encode(),
}
EXPECTED = [
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
    """A folder with text files of all kinds in `texts`, and a run trained on them in `runs`."""
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
    """A copy of the zoo's run in an empty folder, without prepared ids."""
    shutil.copytree(zoo / "runs" / "zoo", tmp_path / "zoo")
    return tmp_path / "zoo"


def locations(run: Path, reply: str) -> list[tuple[str, int, str]]:
    found = find_passages(reply, load_training_texts(run).texts).passages
    return [
        (Path(location.path).name, location.line, location.state)
        for passage in found
        if (location := passage.location)
    ]


@pytest.mark.parametrize(("name", "line", "text"), EXPECTED)
def test_a_passage_has_the_line_of_its_file(zoo: Path, name: str, line: int, text: str) -> None:
    assert locations(zoo / "runs" / "zoo", f"x {text} y") == [(name, line, "")]
    assert load_training_texts(zoo / "runs" / "zoo").missing == ()


def test_without_prepared_ids_the_files_are_read(copy: Path) -> None:
    assert [locations(copy, text) for *_, text in EXPECTED] == [
        [(name, line, "")] for name, line, _ in EXPECTED
    ]
    assert (
        load_training_texts(copy).missing == ()
        and len(list(copy.parent.glob(".prepared/*-words"))) == 1
    )


def test_the_validation_text_is_excluded(zoo: Path, tmp_path: Path) -> None:
    held_out = "This text is held out and no model has ever seen it."
    assert find_passages(held_out, load_training_texts(zoo / "runs" / "zoo").texts).share == 0
    lines = [f"This is the line of number {number} in the whole text" for number in range(100)]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    run = train(tmp_path, "split", str(tmp_path / "text.txt"))
    seen = [find_passages(line, load_training_texts(run).texts).share for line in lines]
    assert (
        seen[:89] == [1.0] * 89
        and max(seen[91:]) < 1.0
        and locations(run, lines[88]) == [("text.txt", 89, "")]
    )
    shutil.rmtree(run.parent / ".prepared")
    from_file = [find_passages(line, load_training_texts(run).texts).share for line in lines]
    assert from_file == seen, "the files are read up to the same character"


def test_the_line_is_that_of_the_part_in_the_reply(zoo: Path) -> None:
    texts = load_training_texts(zoo / "runs" / "zoo").texts
    before = "The first line of the crlf file The third "
    (passage,) = find_passages("line of the crlf file the third thing", texts, before).passages
    assert passage.location and (passage.location.line, passage.began_before) == (3, True)


def test_the_index_is_built_once(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = zoo / "runs" / "zoo"
    expected = locations(run, EXPECTED[0][2])
    monkeypatch.setattr(index_files, "build_shards", None)
    monkeypatch.setattr(training_text, "find_prepared", None)
    assert locations(run, EXPECTED[0][2]) == expected


def test_a_notice_announces_the_index_of_a_large_text_once(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notices: list[str] = []
    load_training_texts(copy, notices.append)
    shutil.rmtree(copy.parent / ".prepared")
    monkeypatch.setattr(training_text, "NOTICE_CHARACTERS", 100)
    load_training_texts(copy, notices.append)
    load_training_texts(copy, notices.append)
    assert notices == ["indexing the 0 million characters zoo was trained on, once"]


@pytest.mark.parametrize(
    "name", ["meta.json", "documents.bin", *(f"0-{name}.bin" for name in index_files.SHARD_ARRAYS)]
)
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_index_is_built_again(zoo: Path, name: str, damage: str) -> None:
    run = zoo / "runs" / "zoo"
    expected = [locations(run, text) for *_, text in EXPECTED]
    (index,) = (zoo / "runs" / ".prepared").glob("*-words")
    data = (index / name).read_bytes()
    (index / name).unlink()
    if damage != "remove":
        (index / name).write_bytes(
            data[:-3] if damage == "cut" else bytes([data[0] ^ 1]) + data[1:]
        )
    assert [locations(run, text) for *_, text in EXPECTED] == expected
    assert (index / name).read_bytes() == data


def test_an_index_of_another_version_is_built_again(
    zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = zoo / "runs" / "zoo"
    locations(run, "x")
    monkeypatch.setattr(index_files, "INDEX_VERSION", "other rules")
    assert locations(run, EXPECTED[0][2]) == [("crlf.txt", 1, "")]
    (index,) = (zoo / "runs" / ".prepared").glob("*-words")
    assert json.loads((index / "meta.json").read_text())["version"] == "other rules"


def test_without_write_permission_the_index_stays_in_memory(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(index_files, "new_folder", refuse)
    assert [locations(copy, text) for *_, text in EXPECTED] == [
        [(name, line, "")] for name, line, _ in EXPECTED
    ]
    assert not (copy.parent / ".prepared").exists()


def test_passages_of_changed_files_are_found_with_their_state(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text(f"This is file {name} of the two there were\n" * 3)
    run = train(tmp_path, "two", str(tmp_path / "one.txt"), str(tmp_path / "two.txt"))
    (tmp_path / "one.txt").write_text("Something else by now")
    (tmp_path / "two.txt").unlink()
    assert locations(run, "This is file one of the two there were") == [
        ("one.txt", 1, "has changed since")
    ]
    assert locations(run, "This is file two of the two there were") == [("two.txt", 1, "is gone")]


def test_without_prepared_ids_only_unchanged_files_are_used(tmp_path: Path) -> None:
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
    assert locations(run, "This is file one of the two there were") == []
    assert locations(run, "This is file two of the two there were") == [("two.txt", 1, "")]
    assert load_training_texts(run).missing == (f"{tmp_path / 'one.txt'} has changed since",)
    (tmp_path / "two.txt").unlink()
    with pytest.raises(CheckpointError, match="one.txt has changed since, .*two.txt is gone"):
        load_training_texts(run)


def test_passages_from_standard_input_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = "The first line that was read\nThe second line that was read\n" * 4
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data.encode())))
    run = train(tmp_path, "piped", "-")
    assert locations(run, "The second line that was read") == [("-", 2, "")]
    shutil.rmtree(run.parent / ".prepared")
    with pytest.raises(CheckpointError, match="standard input was not kept"):
        load_training_texts(run)


def test_a_file_name_that_is_not_valid_text(tmp_path: Path) -> None:
    try:
        (tmp_path / "\udcff한.txt").write_text("The file with a name that nobody can read\n" * 4)
    except (OSError, UnicodeError):
        pytest.skip("this system has no such names")
    run = train(tmp_path, "nameless", str(tmp_path / "\udcff한.txt"))
    assert locations(run, "The file with a name that nobody can read") == [("\udcff한.txt", 1, "")]


def test_the_text_of_the_base_model_is_searched_too(tmp_path: Path) -> None:
    (tmp_path / "old.txt").write_text("What the base was trained on before\n" * 5)
    (tmp_path / "new.txt").write_text("What the model was trained on after\n" * 5)
    base = train(tmp_path, "before", str(tmp_path / "old.txt"))
    flags = ["--max-steps", "1", "--device", "cpu", "--checkpoints", str(base.parent)]
    assert (
        main(["train", str(tmp_path / "new.txt"), "--from", "before", "--name", "fine", *flags])
        == 0
    )
    run = base.parent / "fine"
    assert locations(run, "What the model was trained on after") == [("new.txt", 1, "")]
    assert locations(run, "What the base was trained on before") == [("old.txt", 1, "")]
    shutil.rmtree(base)
    assert (
        locations(run, "What the base was trained on before") == []
        and "before" in load_training_texts(run).missing[0]
    )


def test_the_text_of_a_model_from_elsewhere_is_not_known(copy: Path) -> None:
    step = max(copy.glob("step-*"))
    folder = copy.parent / "모델 1"
    shutil.copytree(step, folder)
    with pytest.raises(CheckpointError, match="모델 1 was not trained here: it has no run.json"):
        load_training_texts(folder)
    runs = ["--checkpoints", str(copy.parent)]
    assert main(["import", str(folder), "--name", "open", *runs]) == 0
    with pytest.raises(CheckpointError, match=r"imported from .*모델 1; its training text is not"):
        load_training_texts(copy.parent / "open")
    info = json.loads((copy / "run.json").read_text())
    for start, reason in (
        ("base", "of its base model: the package has no copy"),
        (folder, "of its base model 모델 1: 모델 1 was not trained here"),
        (copy.parent / "open" / "step-000000", "of its base model open: open was imported from"),
    ):
        (copy / "run.json").write_text(json.dumps({**info, "from": str(start)}))
        (missing,) = load_training_texts(copy).missing
        assert missing.startswith(reason)


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
def test_a_run_json_without_the_text_is_refused(copy: Path, change: dict[str, object]) -> None:
    info = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({**info, **change}))
    with pytest.raises(CheckpointError, match=r"run.json does not say|is not available"):
        load_training_texts(copy)


def test_the_text_of_ids_has_a_mark_before_each_document(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_text, "TOKENS_PER_CHUNK", 2)
    ids = [
        tokenizer.end_of_text,
        *tokenizer.encode("가 a"),
        tokenizer.end_of_text,
        *tokenizer.encode("😀"),
    ]
    assert "".join(text_chunks(np.array(ids), tokenizer)) == f"{DOCUMENT_MARK}가 a{DOCUMENT_MARK}😀"


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
        "84% of the reply is copied word for word from the training text, "
        "in passages of at least 20 characters:",
        f"{path}/이야기\x1b[31m.md:3: 셋째 줄에 있는 한글 이야기입니다",
        f"{path}/crlf.txt:3: ...line of the crlf file",
    ]
    monkeypatch.chdir(path)
    shown = dispatch(session_of(run, Turn("", "The first line behind a mark")), "/source")
    assert isinstance(shown, Lines) and shown.text.splitlines()[1:] == [
        "bom.txt:1: The first line behind a mark"
    ]


def test_source_reports_that_nothing_is_copied(zoo: Path) -> None:
    for reply in ("", "Never written before, by nobody at all"):
        shown = dispatch(
            session_of(zoo / "runs" / "zoo", Turn("The first line of the crlf file", reply)),
            "/source",
        )
        assert shown == Lines(
            "no passage of 20 or more characters of the reply occurs word for word "
            "in the training text"
        )


def test_source_lists_missing_files(copy: Path, tmp_path: Path) -> None:
    info = json.loads((copy / "run.json").read_text())
    info["files"][0]["sha256"] = "0" * 64
    (copy / "run.json").write_text(json.dumps(info))
    shown = dispatch(session_of(copy, Turn("", "The first line behind a mark")), "/source")
    assert (
        isinstance(shown, Lines)
        and shown.text.splitlines()[-1]
        == f"not searched: {info['files'][0]['path']} has changed since"
    )
    with pytest.raises(SettingError, match="there is no turn yet"):
        dispatch(session_of(copy), "/source")
    with pytest.raises(CheckpointError, match="cannot read"):
        dispatch(session_of(tmp_path / "none", Turn("", "a")), "/source")


def test_source_marks_passages_of_changed_files(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("This is the file of which there is one\n" * 5)
    run = train(tmp_path, "one", str(tmp_path / "one.txt"))
    (tmp_path / "one.txt").write_text("Something else by now")
    shown = dispatch(session_of(run, Turn("", "This is the file of which there is one")), "/source")
    where = f"{tmp_path}/one.txt:1 (has changed since)"
    assert (
        isinstance(shown, Lines)
        and shown.text.splitlines()[1] == f"{where}: This is the file of which there is one"
    )
