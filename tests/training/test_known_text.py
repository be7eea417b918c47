"""A figure is held out only where no model that the run comes from was trained on the text."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import NO_AUGMENTATION, STORY, TINY_FLAGS

from simplellm.app.cli import main
from simplellm.checkpoint.run import RunFolder

CASES = [
    ("first", "a.txt", (), True),  # split like the text of `first`
    ("first", "a.txt", ("--val-fraction", "0.05"), True),  # a part of its validation text
    ("first", "a.txt", ("--val-fraction", "0.3"), False),
    ("second", "a.txt", ("--val-fraction", "0.3"), False),  # `second` goes on from `first`
    ("second", "b.txt", ("--val-data", "a.txt"), False),
]


def train(name: str, text: str, *flags: str) -> None:
    settings = ["--max-steps", "1", "--checkpoints", "runs", *NO_AUGMENTATION]
    assert main(["train", text, *flags, "--name", name, *settings]) == 0


def test_validation_text_that_an_ancestor_was_trained_on_is_not_held_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    story = STORY.read_text("utf-8")
    Path("a.txt").write_text(story, encoding="utf-8")
    Path("b.txt").write_text(story[::-1], encoding="utf-8")
    train("first", "a.txt", "--from", "none", *TINY_FLAGS)
    train("second", "b.txt", "--from", "first")
    for number, (base, text, flags, is_held_out) in enumerate(CASES):
        capsys.readouterr()
        train(f"new{number}", text, "--from", base, *flags)
        assert ("was training text of first" in capsys.readouterr().err) is not is_held_out
        share = RunFolder(tmp_path / "runs" / f"new{number}").copied_share()
        assert share == (0.0 if is_held_out else 1.0)
