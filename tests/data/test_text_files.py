"""Which files a TEXT argument names, and what a folder leaves out."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simplellm.data.text_files import container_type, find_text_files, natural_key
from simplellm.errors import TextError


def write(folder: Path, *names: str, content: str = "text\n") -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


def names_in(folder: Path, notices: list[str] | None = None) -> list[str]:
    """The files that the folder gives, relative to it."""
    files = find_text_files([str(folder)], ([] if notices is None else notices).append)
    return [Path(file.name).relative_to(folder).as_posix() for file in files]


def test_suffixes_count_in_any_case(tmp_path):
    names = ("A.TXT", "b.Md", "c.markdown", "d.text", "e.rst", "f.log", "g.JSONL")
    write(tmp_path, *names)
    assert names_in(tmp_path) == list(names)


def test_files_come_in_natural_order(tmp_path):
    write(tmp_path, "10.txt", "2.txt", "1.txt", "part 2/a.txt", "part 10/a.txt", "B.txt", "a.txt")
    expected = ["1.txt", "2.txt", "10.txt", "a.txt", "B.txt", "part 2/a.txt", "part 10/a.txt"]
    assert names_in(tmp_path) == expected
    matches = find_text_files([f"{tmp_path}/*.txt"])
    assert [Path(file.name).name for file in matches] == expected[:5]


@given(st.lists(st.text(alphabet="a1٣².Z가 ", max_size=6)))
def test_natural_order_is_total_for_any_names(names):
    ordered = sorted(names, key=natural_key)
    assert sorted(reversed(ordered), key=natural_key) == sorted(ordered, key=natural_key)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (".git/notes.txt", "hidden"),
        (".hidden.txt", "hidden"),
        ("._a.txt", "hidden"),
        ("node_modules/pkg/readme.md", "node_modules folder"),
        ("src/__pycache__/x.txt", "__pycache__ folder"),
        ("picture.png", ".png file"),
        ("main.py", ".py file"),
    ],
)
def test_a_folder_leaves_out_what_is_not_meant_and_says_why(tmp_path, name, reason):
    write(tmp_path, "a.txt", name)
    notices: list[str] = []
    assert names_in(tmp_path, notices) == ["a.txt"]
    assert notices == [f"left out of {tmp_path}: 1 {reason}"]


def test_a_folder_leaves_out_runs_environments_and_conversations(tmp_path):
    write(tmp_path, "a.txt", "env/lib/b.txt", "checkpoints/run/log.jsonl", "checkpoints/c.md")
    write(tmp_path, "env/pyvenv.cfg", "checkpoints/run/run.json", content="{}")
    header = json.dumps({"simplellm": "conversation", "version": 1})
    write(tmp_path, "talk.jsonl", content=header + "\n")
    notices: list[str] = []
    assert names_in(tmp_path, notices) == ["a.txt", "checkpoints/c.md"]
    assert sorted(notices[0].partition(": ")[2].split(", ")) == [
        "1 saved conversation", "1 training run", "1 virtual environment",
    ]  # fmt: skip


def test_a_file_that_is_named_itself_is_never_left_out(tmp_path):
    write(tmp_path, "main.py", ".hidden", "no-suffix")
    paths = [str(tmp_path / name) for name in ("main.py", ".hidden", "no-suffix")]
    assert [file.name for file in find_text_files(paths)] == paths


def test_a_training_run_is_no_text(tmp_path):
    write(tmp_path, "run.json", "log.jsonl", content="{}\n")
    with pytest.raises(TextError, match="is a training run"):
        find_text_files([str(tmp_path)])


def test_a_path_may_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write(tmp_path, "notes/a.txt")
    expected = str(tmp_path / "notes" / "a.txt")
    for text in ("~/notes/a.txt", "~/notes", "~/notes/*.txt"):
        assert [os.path.normpath(file.name) for file in find_text_files([text])] == [expected]


def tar_bytes() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("a.txt"), io.BytesIO())
    return buffer.getvalue()


def zip_bytes(name: str, content: str = "x") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(name, content)
    return buffer.getvalue()


CONTAINERS = {
    "gzip": gzip.compress(b"text"),
    "bzip2": bz2.compress(b"text"),
    "xz": lzma.compress(b"text"),
    "zip": zip_bytes("a.txt"),
    "tar": tar_bytes(),
    "Word document": zip_bytes("word/document.xml"),
    "OpenDocument": zip_bytes("mimetype", "application/vnd.oasis.opendocument.text"),
    "EPUB book": zip_bytes("mimetype", "application/epub+zip"),
    "PDF": b"%PDF-1.7\n",
    "RTF": rb"{\rtf1",
    "Microsoft Office": bytes.fromhex("d0cf11e0a1b11ae1") + b"\0" * 9,
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_container_is_recognized_by_its_first_bytes(tmp_path, kind):
    assert container_type(CONTAINERS[kind]) == kind
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.txt").write_bytes(CONTAINERS[kind])
    notices: list[str] = []
    assert names_in(tmp_path, notices) == ["a.txt"] and kind in notices[0]


@given(st.text())
def test_text_is_no_container(text):
    assert container_type(b"T" + text.encode("utf-8", "replace")) is None
