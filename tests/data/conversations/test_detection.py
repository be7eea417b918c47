"""Which format a file is in, and that texts stay texts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import ROOT, STORY
from reading_files import detected, read, write

from simplellm.data.conversations.options import FORMAT_NAMES, TEXT, ReadOptions
from simplellm.data.conversations.readers.registry import (
    FORMATS,
    detect_format,
    named_format,
)
from simplellm.data.source import Source, TextFormat
from simplellm.errors import SettingError

MESSAGES = {"messages": [{"role": "user", "content": "가"}, {"role": "assistant", "content": "나"}]}
PLAY = "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n"


@pytest.mark.parametrize(
    "content",
    [
        "", "\n\n", "그는 말했다: 안녕.\n그리고 갔다.\n", PLAY, PLAY.replace(":\n", ": "),
        "Title: 책\nAuthor: 민수\n\n옛날에 살았다.\n",
        "User guide\n\nUser: the person.\nBot: the program.\n" + "Text of the guide.\n" * 20,
        "[서론]\n옛날에 살았다.\n", "{아니}\n", "[1] 민수, 책, 2024.\n[2] 유나, 글, 2023.\n",
        "2024-01-31, 21:05:33 INFO started\n", "[2024-01-31 21:05:33] ERROR: no\n" * 3,
        "[2024-01-31 21:05:33] [main] INFO app: started\n" * 3,
        "2024-01-31 21:05:33,123 - root - INFO - started: yes\n" * 3,
        "2024-01-31, 21:05 - rain\n2024-02-01, 21:05 - sun\n",
        "name,text\n민수,안녕\n", "# Notes\n\n- Q: why?\n- A: because\n",
    ],
)  # fmt: skip
def test_texts_stay_texts(tmp_path: Path, content: str) -> None:
    assert {detected(tmp_path, content, name) for name in ("a.txt", "a.md", "a.log")} == {None}


def test_the_story_of_the_package_stays_a_text() -> None:
    assert detect_format(Source(str(STORY)), ReadOptions()) is None


@pytest.mark.parametrize(
    "record",
    [
        {"text": "가"}, {"text": "가", "prompt": "나", "completion": "다"},
        {"text": "가", "messages": MESSAGES["messages"]}, {"title": "가", "body": "나"}, {}, 3,
        "가", [], [3], [[3]], None, {"messages": []}, {"conversations": "가"},
    ],
)  # fmt: skip
def test_json_lines_without_conversations_stay_texts(tmp_path: Path, record: object) -> None:
    assert detected(tmp_path, [record, record]) is None


def test_another_text_key_keeps_the_lines_a_text(tmp_path: Path) -> None:
    path = write(tmp_path, [{"question": "가", "answer": "나"}], "a.jsonl")
    for key, name in (("text", "prompt"), ("answer", None)):
        found = detect_format(Source(str(path), TextFormat(text_key=key)), ReadOptions())
        assert (found and found.name) == name


def test_most_records_decide(tmp_path: Path) -> None:
    other = {"question": "가", "answer": "나"}
    assert detected(tmp_path, [other, MESSAGES, MESSAGES]) == "messages"
    assert detected(tmp_path, [MESSAGES, other, other]) == "prompt"
    assert detected(tmp_path, [{"a": 1}, {"b": 2}, MESSAGES]) is None


def test_bad_lines_do_not_hide_the_format(tmp_path: Path) -> None:
    content = "nonsense\n" + json.dumps(MESSAGES) + "\n{\n" + json.dumps(MESSAGES) + "\n"
    assert detected(tmp_path, "{" + content) == "messages"


def test_the_detected_format_is_reported(tmp_path: Path) -> None:
    assert "conversations (messages): 1" in read(tmp_path, [MESSAGES]).notices[0]


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_can_be_forced(tmp_path: Path, name: str) -> None:
    source = Source(str(write(tmp_path, [{"text": "가"}], "a.jsonl")))
    assert detect_format(source, ReadOptions(format=name)) is FORMATS[name]


def test_text_is_the_name_of_no_format(tmp_path: Path) -> None:
    source = Source(str(write(tmp_path, [MESSAGES], "a.jsonl")))
    assert FORMAT_NAMES[0] == "text" and detect_format(source, ReadOptions(format="text")) is None


def test_an_unknown_format_is_refused_with_a_suggestion() -> None:
    with pytest.raises(SettingError) as caught:
        named_format("whatsup")
    assert caught.value.exit_code == 2 and "text, saved, telegram, messages" in str(caught.value)
    assert caught.value.fix == "did you mean --format whatsapp?"


def test_every_format_has_one_line_of_help() -> None:
    assert all(format.help and "\n" not in format.help for format in FORMATS.values())
    assert {name for name, format in FORMATS.items() if format.uses_me} == {
        "telegram", "whatsapp", "kakaotalk", "transcript",
    }  # fmt: skip


SECTION = re.compile(r"^### `(\w+)`\n(.*?)(?=^##)", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECTIONS = dict(SECTION.findall((ROOT / "docs" / "conversations.md").read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", FORMATS)
def test_the_examples_of_the_documentation_are_in_their_formats(tmp_path: Path, name: str) -> None:
    examples = BLOCK.findall(SECTIONS[name])
    me = "유나" if name in ("whatsapp", "kakaotalk", "telegram") else None
    formats = [read(tmp_path, one, "a.txt", me=me).summary.format for one in examples]
    assert examples and set(formats) == {name}


def test_the_documentation_describes_all_formats() -> None:
    assert set(SECTIONS) == set(FORMATS)


def test_the_names_of_the_formats_are_known_without_their_readers() -> None:
    assert (TEXT, *FORMATS) == FORMAT_NAMES
