"""The run log: one line of JSON for each record."""

from __future__ import annotations

import json
from pathlib import Path

from simplellm.checkpoint.run_log import JsonlSink, Sinks


def test_a_log_is_a_line_for_each_record(tmp_path: Path) -> None:
    records = [{"kind": "step", "loss": 1.5}, {"kind": "note", "text": "가\n\u2028"}]
    sink = Sinks(JsonlSink(tmp_path / "a"), JsonlSink(tmp_path / "b"), Sinks())
    for record in records:
        sink.write(record)
    for name in "ab":
        assert [
            json.loads(line)
            for line in (tmp_path / name).read_text(encoding="utf-8").split("\n")[:-1]
        ] == records
