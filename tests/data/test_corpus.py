"""Corpora: files, folders, globs, encodings and errors."""

from __future__ import annotations

import codecs
import hashlib
import io
import os
import threading
import tracemalloc
from pathlib import Path
from typing import BinaryIO

import pytest
from conftest import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simplellm.data import source
from simplellm.data.corpus import Corpus, read_corpus
from simplellm.data.source import TextFormat
from simplellm.data.tokenizer import Tokenizer
from simplellm.errors import TextError


def _file(folder: Path, content: str | bytes, name: str = "a.txt") -> str:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def _read(folder: Path, content: str | bytes, encoding: str = "utf-8") -> Corpus:
    return read_corpus([_file(folder, content)], TextFormat(encoding))


def test_a_file_is_read_with_its_size_and_hash(tmp_path: Path) -> None:
    corpus = _read(tmp_path, "가나 abc\n")
    assert (corpus.text(), corpus.n_characters, corpus.n_bytes) == ("가나 abc\n", 7, 11)
    assert list(corpus.fingerprint.values()) == [hashlib.sha256("가나 abc\n".encode()).hexdigest()]


def test_the_text_files_of_a_folder_are_read_in_order(tmp_path: Path) -> None:
    for name, content in {
        "b.md": "2",
        "a.txt": "1",
        "sub/c.jsonl": '{"text": "3"}',
        "d.png": "4",
        "sub/e": "5",
    }.items():
        _file(tmp_path, content, name)
    assert read_corpus([str(tmp_path)]).text() == "123"


def test_the_files_that_match_a_glob_are_read(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.md", "sub/d.txt"):
        _file(tmp_path, Path(name).stem, name)
    assert read_corpus([f"{tmp_path}/*.txt"]).text() == "ab"
    assert sorted(read_corpus([f"{tmp_path}/**/*.txt"]).text()) == ["a", "b", "d"]


def test_a_file_name_may_look_like_a_glob(tmp_path: Path) -> None:
    assert read_corpus([_file(tmp_path, "here", "[draft].txt")]).text() == "here"


def test_each_line_of_a_jsonl_file_is_a_document(tmp_path: Path) -> None:
    path = _file(
        tmp_path, '{"text": "a\\u00e9", "n": 1}\r\n\n{"text": ""}\n{"text": "b\\nc"}', "a.jsonl"
    )
    chunks = [tuple(chunk) for chunk in read_corpus([path]).chunks()]
    assert chunks == [("aé", True, 0, 1), ("b\nc", True, 0, 4)], "source 0, lines 1 and 4"


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "3",
        "[]",
        '"text"',
        '{"Text": "a"}',
        '{"text": 3}',
        "null",
        "[" * 100_000,
        '{"a": 1' + "0" * 5000,
    ],
)
def test_the_error_for_an_invalid_jsonl_line_has_its_number(tmp_path: Path, line: str) -> None:
    with pytest.raises(TextError, match='line 3 (is not JSON|is not a JSON|has no string "text")'):
        read_corpus([_file(tmp_path, '{"text": "a"}\n\n' + line, "a.jsonl")])


def test_every_file_is_a_document(tmp_path: Path) -> None:
    texts = [_file(tmp_path, "one"), _file(tmp_path, "", "b.txt"), _file(tmp_path, "two", "c.txt")]
    assert [tuple(chunk) for chunk in read_corpus(texts).chunks()] == [
        ("one", True, 0, 1),
        ("two", True, 2, 1),
    ]
    assert read_corpus(texts).characters == (3, 0, 3)


def test_standard_input_can_be_read_again() -> None:
    corpus = read_corpus(["-"], stdin=io.BytesIO("가\r\nb".encode()))
    assert corpus.text() == corpus.text() == "가\nb" and list(corpus.fingerprint) == ["-"]


def test_standard_input_can_be_read_twice_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(source, "READ_BYTES", 16)
    monkeypatch.setattr(source, "CHUNK_CHARACTERS", 8)
    text = "".join(f"line {i}\n" for i in range(50))
    corpus = read_corpus(["-"], stdin=io.BytesIO(text.encode()))
    pairs = list(zip(corpus.chunks(), corpus.chunks(), strict=True))
    assert (
        "".join(first.text for first, _ in pairs)
        == "".join(second.text for _, second in pairs)
        == text
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_is_read_once_and_stored(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"from a pipe",), daemon=True)
    writer.start()
    corpus = read_corpus([str(pipe)])
    assert corpus.text() == corpus.text() == "from a pipe"
    writer.join(timeout=10)


@pytest.mark.parametrize(
    "content",
    [codecs.BOM_UTF8 + "가b\n".encode(), "가b\n".encode("utf-16"),
     codecs.BOM_UTF16_BE + "가b\n".encode("utf-16-be"),
     codecs.BOM_UTF16_LE + "가b\n".encode("utf-16-le"), "가b\n".encode("utf-32"),
     codecs.BOM_UTF32_BE + "가b\n".encode("utf-32-be")],
    ids=["utf-8", "utf-16", "utf-16-be", "utf-16-le", "utf-32", "utf-32-be"],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "cp949"])
def test_a_byte_order_mark_sets_the_encoding_and_is_removed(
    tmp_path: Path, content: bytes, encoding: str
) -> None:
    assert _read(tmp_path, content, encoding).text() == "가b\n"


@pytest.mark.parametrize("read_bytes", [1, 2, 3, 1 << 20])
def test_line_ends_become_newlines_at_any_block_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_bytes: int
) -> None:
    monkeypatch.setattr(source, "READ_BYTES", read_bytes)
    assert _read(tmp_path, "a가\r\nb\r\r\nc\rd\n\r").text() == "a가\nb\n\nc\nd\n\n"


@pytest.mark.parametrize(
    "encoding", ["cp949", "euc-kr", "latin-1", "utf-16-le", "UTF_16-BE", "utf-8-sig", "ascii"]
)
def test_other_encodings_can_be_chosen(tmp_path: Path, encoding: str) -> None:
    text = "cafe" if encoding == "ascii" else "café" if encoding == "latin-1" else "한글 text"
    assert _read(tmp_path, text.encode(encoding), encoding).text() == text


@pytest.mark.parametrize(
    "encoding", ["nonsense", "", "hex", "rot13", "base64", "zlib", "undefined", "\0"]
)
def test_an_invalid_encoding_is_refused(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(TextError, match="encoding"):
        _read(tmp_path, "hello", encoding)


@pytest.mark.parametrize("encoding", ["utf-16", "u16", "punycode", "utf-32"])
def test_a_text_in_another_encoding_is_a_text_error(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(TextError):
        _read(tmp_path, "hello world ", encoding)


@pytest.mark.parametrize(
    "offset", [0, 1, 4, 4094, 4095, 4096, 4097, 12_345, (1 << 20) + 3, (1 << 21) + 5]
)
@pytest.mark.parametrize(
    ("encoding", "bad"),
    [("utf-8", b"\xff"), ("utf-8", b"\xea\xb0 "), ("cp949", b"\xb0\xff"), ("ascii", b"\x80")],
)
def test_the_error_for_an_invalid_byte_has_its_offset(
    tmp_path: Path, offset: int, encoding: str, bad: bytes
) -> None:
    with pytest.raises(
        TextError, match=rf"a\.txt: byte {offset} \(0x{bad[0]:02x}\) is not {encoding}$"
    ) as caught:
        _read(tmp_path, b"a" * offset + bad + b" and more", encoding)
    assert "--encoding" in caught.value.fix or "damaged" in caught.value.fix


@pytest.mark.parametrize("offset", [3, 7, 5000])
def test_the_offset_includes_the_byte_order_mark(tmp_path: Path, offset: int) -> None:
    with pytest.raises(TextError, match=rf"byte {offset} \(0xff\)"):
        _read(tmp_path, codecs.BOM_UTF8 + b"a" * (offset - 3) + b"\xff and more")


@pytest.mark.parametrize(
    "content", [b"abc\xea\xb0", "가".encode("utf-16")[:-1]], ids=["utf-8", "utf-16"]
)
def test_a_text_that_ends_within_a_character_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(TextError, match="ends in the middle of a character"):
        _read(tmp_path, content)


@pytest.mark.parametrize("offset", [0, 3, 4, 5, (1 << 20) + 7])
def test_the_error_for_a_nul_byte_has_its_offset(tmp_path: Path, offset: int) -> None:
    with pytest.raises(TextError, match=f"byte {offset} is NUL"):
        _read(tmp_path, b"a" * offset + b"\0b")


@pytest.mark.parametrize("content", ["", " ", "\n\n\t\r\n", "\ufeff"], ids=ascii)
def test_the_error_for_a_blank_file_has_its_name(tmp_path: Path, content: str) -> None:
    with pytest.raises(TextError, match=r"no text in .*a\.txt"):
        _read(tmp_path, content)


@pytest.mark.parametrize(
    "name", ["missing.txt", "*.txt", "a\0b", "no/such/folder", "x" * 300, "word " * 1000]
)
def test_a_missing_file_is_a_text_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TextError) as caught:
        read_corpus([name])
    assert caught.value.fix


def test_the_error_for_a_folder_without_texts_has_its_name(tmp_path: Path) -> None:
    _file(tmp_path, "1", "a.png")
    with pytest.raises(TextError, match="no .*txt.* in "):
        read_corpus([str(tmp_path)])


@pytest.mark.parametrize(
    "stdin", [None, io.BytesIO(b""), io.BytesIO(b" \n")], ids=["none", "empty", "blank"]
)
def test_standard_input_without_text_is_refused(stdin: BinaryIO | None) -> None:
    with pytest.raises(TextError):
        read_corpus(["-"], stdin=stdin)


class BrokenFile(io.RawIOBase):
    """A file whose reading fails after `good` bytes."""

    def __init__(self, good: int) -> None:
        self.good = good

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self.good <= 0:
            raise OSError(5, "Input/output error")
        self.good -= size
        return b"a" * size


@pytest.mark.parametrize("good", [0, 4])
def test_a_read_error_is_a_text_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good: int
) -> None:
    monkeypatch.setattr(source.Source, "open", lambda self: BrokenFile(good))
    with pytest.raises(TextError, match=r"^cannot read .*Input/output error"):
        _read(tmp_path, "abc")


def test_a_read_error_of_standard_input_is_a_text_error() -> None:
    with pytest.raises(TextError, match="Input/output error"):
        read_corpus(["-"], stdin=BrokenFile(0))  # type: ignore[arg-type]


law = settings(
    deadline=None,
    max_examples=examples(100),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
long_text = st.text(alphabet="ab .'1\n\n\t가", min_size=1, max_size=200).filter(
    lambda text: not text.isspace()
)


@law
@given(text=long_text, start=st.integers(0, 200), length=st.integers(0, 200))
def test_chunks_concatenate_to_the_requested_characters(
    tmp_path: Path, text: str, start: int, length: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _use_small_chunks(patch)
        corpus = _read(tmp_path, text)
        assert corpus.text() == text and corpus.n_characters == len(text)
        assert corpus.text(start, start + length) == text[start : start + length]
        assert corpus.text(0, start) + corpus.text(start) == text


@law
@given(text=long_text)
def test_chunks_do_not_change_words_or_ids(tmp_path: Path, tokenizer: Tokenizer, text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _use_small_chunks(patch)
        chunks = list(_read(tmp_path, text).chunks())
    assert [word for chunk in chunks for word in tokenizer.split(chunk.text)] == tokenizer.split(
        text
    )
    assert [
        token for chunk in chunks for token in tokenizer.encode(chunk.text)
    ] == tokenizer.encode(text)
    assert [chunk.ends_document for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def _use_small_chunks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(source, "CHUNK_CHARACTERS", 10)
    patch.setattr(source, "READ_BYTES", 7)


def test_a_very_long_line_is_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "CHUNK_CHARACTERS", 10)
    monkeypatch.setattr(source, "MAX_CHUNK_CHARACTERS", 50)
    corpus = _read(tmp_path, "ab " * 100)
    assert max(len(chunk.text) for chunk in corpus.chunks()) <= 50 and corpus.text() == "ab " * 100


def test_a_long_json_line_is_held_once_while_its_text_is_used(tmp_path):
    path = tmp_path / "long.jsonl"
    n_characters = 4_000_000
    path.write_text('{"text": "' + "a" * n_characters + '"}\n{"text": "b"}\n')
    tracemalloc.start()
    try:
        sizes = [
            (len(text), tracemalloc.get_traced_memory()[0])
            for _, text in source.Source(str(path)).records()
        ]
    finally:
        tracemalloc.stop()
    assert sizes[0][0] == n_characters and n_characters <= sizes[0][1] < 2 * n_characters
    assert sizes[1][1] < n_characters
