"""Reading of files: several at once, folders, notices, limits, and content of any kind."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from data.made_up_chats import whatsapp_export
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reading_files import read, write

from simplellm.data import source
from simplellm.data.conversations.options import ReadOptions
from simplellm.data.conversations.readers.registry import FORMATS, detect_format
from simplellm.data.conversations.reading import read_conversations
from simplellm.data.conversations.summary import Summary
from simplellm.data.source import Source, TextFormat
from simplellm.errors import SimpleLLMError, TextError


def record(*texts: str) -> dict[str, object]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]}


def test_the_summary_counts_what_was_read_and_what_was_dropped(tmp_path: Path) -> None:
    records = [record("가", "나", "다", "라", "마"), record("가", "", "나"), record("바", "사")]
    result = read(tmp_path, records)
    assert result.summary == Summary(
        "messages", 2, 6, 3, {"user": 6, "assistant": 3},
        {"turns after the last reply": 1, "conversations without a reply": 1},
    )  # fmt: skip
    name = tmp_path / "a.jsonl"
    assert result.notices == [
        f"{name}: conversations (messages): 2, turns 6, replies 3; "
        "messages of user (6), assistant (3)",
        f"{name}: left out: turns after the last reply (1), conversations without a reply (1)",
    ]


def test_a_summary_without_losses_has_one_line(tmp_path: Path) -> None:
    assert len(read(tmp_path, [record("가", "나")]).notices) == 1


def test_files_of_several_formats_are_read_together(tmp_path: Path) -> None:
    write(tmp_path, [record("가", "나")], "a.jsonl")
    write(tmp_path, whatsapp_export(30), "b.txt")
    write(
        tmp_path,
        [{"question": "다", "answer": "라"}, {"question": "가", "answer": "나"}],
        "c.jsonl",
    )
    write(tmp_path, "그냥 글이다.\n", "d.txt")
    notices: list[str] = []
    found = read_conversations([str(tmp_path)], ReadOptions(me="유나"), notice=notices.append)
    assert [file.summary.format for file in found.files] == ["messages", "whatsapp", "prompt"]
    assert found.summary.format == "messages, whatsapp, prompt"
    assert found.summary.conversations == len(found.conversations) + 1
    assert "left out: 1 conversations that occur more than once" in notices
    assert any("d.txt has no conversations in a known format" in notice for notice in notices)
    name = str(tmp_path / "a.jsonl")
    assert found.fingerprint[name] == hashlib.sha256(Path(name).read_bytes()).hexdigest()


def test_duplicates_stay_where_the_format_says_so(tmp_path: Path) -> None:
    path = write(tmp_path, [record("가", "나")] * 2, "a.jsonl")
    for keeps, count in ((False, 1), (True, 2)):
        text_format = TextFormat(keeps_duplicates=keeps)
        assert len(read_conversations([str(path)], format=text_format).conversations) == count


def test_standard_input_is_read() -> None:
    stdin = io.BytesIO(json.dumps(record("가", "나")).encode())
    (conversation,) = read_conversations(["-"], stdin=stdin).conversations
    assert conversation.source == "- line 1"


def test_a_text_is_refused_with_the_names_of_the_formats(tmp_path: Path) -> None:
    with pytest.raises(TextError) as caught:
        read(tmp_path, "그냥 글이다.\n", "a.txt")
    assert "no conversations in a known format" in str(caught.value)
    assert all(name in caught.value.fix for name in FORMATS)


@pytest.mark.parametrize("content", [[record("가")], [record("", "나")], [{"messages": []}]])
def test_a_file_without_a_reply_is_an_error(tmp_path: Path, content: list[object]) -> None:
    with pytest.raises(TextError, match="no conversation with a reply") as caught:
        read(tmp_path, content, format="messages")
    assert "left out: conversations without" in str(caught.value) and caught.value.fix


def test_a_folder_without_conversations_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "그냥 글이다.\n", "a.txt")
    with pytest.raises(TextError, match="there are no conversations in"):
        read_conversations([str(tmp_path)])


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"PK\x03\x04zip", "zip"), (b"a\0b", "NUL"), ("안녕".encode("cp949") * 9, "is not utf-8")],
)
def test_files_that_are_no_text_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    for name in (None, "whatsapp", "messages"):
        with pytest.raises(TextError, match=message):
            read(tmp_path, content, "a.txt", format=name)


def test_unusual_line_ends_stay_in_the_texts(tmp_path: Path) -> None:
    text = "가\u2028나\u2029다\x85라\x0b마\x0c바"
    chat = f"31/01/2024, 21:05 - 민수: {text}\r\n31/01/2024, 21:06 - 유나: {text}\r\n"
    assert read(tmp_path, chat, "a.txt", me="유나").turns == [[("user", text), ("assistant", text)]]
    said = read(tmp_path, f"User: {text}\rBot: {text}\r", "a.txt")
    assert said.turns == [[("user", text), ("assistant", text)]]


words = st.sampled_from([
    "messages", "conversations", "role", "content", "from", "value", "user", "assistant", "prompt",
    "completion", "instruction", "output", "input", "history", "system", "tools", "tool_calls",
    "function", "name", "weight", "text", "date", "date_unixtime", "chats", "list", "type", "id",
    "message", "simplellm", "conversation", "turn", "turns", "reply", "가", "",
])  # fmt: skip
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), words),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=4)),
    max_leaves=12,
)


@given(values)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_is_read_or_refused(tmp_path: Path, value: object) -> None:
    refused = 0
    for name in (None, *FORMATS):
        try:
            read(tmp_path, json.dumps(value), format=name, me="user")
        except SimpleLLMError as error:
            assert str(error)
            refused += 1
    assert refused <= len(FORMATS) + 1


@given(st.text(st.sampled_from("[](){}12:/,.- 년월일오후가AM\u200e\u202f\n-"), max_size=80))
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_read_or_refused(tmp_path: Path, text: str) -> None:
    refused = 0
    for name in (None, "whatsapp", "kakaotalk", "transcript"):
        try:
            read(tmp_path, text, "a.txt", format=name, me="가")
        except SimpleLLMError as error:
            assert str(error)
            refused += 1
    assert refused <= 4


@pytest.mark.parametrize("name", [None, "messages", "telegram", "chatterbot"])
@pytest.mark.parametrize("begin", ['{"messages": ', '{"messages": [{"role": "user", "content": '])
def test_deep_json_is_read_or_refused(tmp_path: Path, name: str | None, begin: str) -> None:
    end = "}" if begin.endswith('s": ') else "}]}"
    content = begin + "[" * 900 + "]" * 900 + end
    with pytest.raises(TextError) as caught:
        read(tmp_path, content, "a.txt", format=name, me="user")
    assert caught.value.fix


class CountedSource(Source):
    """A source that counts the parts that are read."""

    n_parts = 0

    def decoded(self) -> Iterator[str]:
        for part in super().decoded():
            CountedSource.n_parts += 1
            yield part


@pytest.mark.parametrize("line", ["[1] Minsu, 2024.\n", "{note}\n", "[31.01.24] x\n", "[a]: b\n"])
def test_a_large_text_that_is_no_json_is_not_read_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setattr(source, "READ_BYTES", 512)
    monkeypatch.setattr(CountedSource, "n_parts", 0)
    path = write(tmp_path, line + "text\n" * 100_000, "a.txt")
    assert detect_format(CountedSource(str(path)), ReadOptions()) is None
    assert 0 < CountedSource.n_parts < 30


def test_a_value_longer_than_the_first_part_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "READ_BYTES", 64)
    for text in ("가" * 2000, "\u1234\\u1234" * 300, "a b " * 500):
        content = json.dumps([record("질문", text), record("다", text)], indent=1)
        for cut in range(3):
            assert len(read(tmp_path, " " * cut + content, "a.json").turns) == 2


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["whatsapp", "lines", "array", "one line", "transcript"])
def test_the_time_to_read_grows_with_the_size(tmp_path: Path, layout: str) -> None:
    seconds = []
    for size in (1_000_000, 5_000_000):
        path = write(tmp_path, repeated(layout, size), "a.txt")
        began = time.process_time()
        read_conversations([str(path)], ReadOptions(me="유나" if layout == "whatsapp" else None))
        seconds.append(time.process_time() - began)
    assert seconds[1] < 12 * seconds[0], "five times the size; quadratic time would be 25 times"


def repeated(layout: str, n_bytes: int) -> str:
    """About `n_bytes` of conversations that differ."""
    if layout == "whatsapp":
        part = whatsapp_export(2000)
        return "".join(part.replace("?", f" {n}?") for n in range(n_bytes // len(part.encode())))
    if layout == "transcript":
        part = "User: 질문 {0}\nBot: 대답 {0}\n\n"
        return "".join(part.format(n) for n in range(n_bytes // 36))
    records = [json.dumps(record(f"질문 {n}", f"대답 {n}")) for n in range(n_bytes // 128)]
    if layout == "lines":
        return "\n".join(records)
    return "[" + (",\n" if layout == "array" else ",").join(records) + "]"
