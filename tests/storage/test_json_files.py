"""JSON files: the format that is written, and what the reader refuses."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from simplellm.errors import CheckpointError
from simplellm.storage.json_files import json_bytes, read_json


def test_json_is_utf_8_with_one_newline_and_without_nan() -> None:
    assert json_bytes({"a": "가"}) == '{\n "a": "가"\n}\n'.encode()
    with pytest.raises(ValueError, match="JSON"):
        json_bytes(math.nan)


def test_a_written_object_is_read_again(tmp_path: Path) -> None:
    content = {"a": [1, 2.5, None], "b": {"c": "가"}}
    (tmp_path / "a.json").write_bytes(json_bytes(content))
    assert read_json(tmp_path / "a.json") == content


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "3", '{"a": NaN}', '{"a": 1e999}', '{"a": 1, "a": 2}', "[" * 100_000]
)
def test_a_file_that_is_not_a_json_object_is_damaged(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(CheckpointError, match="is damaged"):
        read_json(tmp_path / "a.json")
