"""Each example runs as it stands, without a trained model, and shows what it promises."""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import re
import runpy
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
MAX_LINES = 90


def run_example(name: str, folder: Path, *arguments: str) -> str:
    """What an example prints, run in `folder`; in this process, because torch is loaded already."""
    path = ROOT / "examples" / name
    shown = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(shown):
        patch.chdir(folder)
        patch.setattr(sys, "argv", [str(path), *arguments])
        patch.setattr(sys, "path", [str(path.parent), *sys.path])
        runpy.run_path(str(path), run_name="__main__")
    return shown.getvalue()


@pytest.fixture(scope="module", autouse=True)
def one_training() -> Iterator[None]:
    """The examples that use a model of tiny_model.py get the same one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "examples")
        tiny_model = importlib.import_module("tiny_model")
        patch.setattr(tiny_model, "open_or_train", cache(tiny_model.open_or_train))
        yield


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_says_what_it_teaches_and_how_to_run_it(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    is_module = path.name == "tiny_model.py"  # imported by the others
    assert is_module or f"python examples/{path.name}" in docstring
    assert is_module or path.name == "gpu_check.py" or "Teaches: " in docstring


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short(path: Path) -> None:
    if path.name != "gpu_check.py":
        assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_training_and_generating(tmp_path: Path) -> None:
    shown = run_example("train_and_generate.py", tmp_path)
    bits = re.search(r"([\d.]+) bits per byte", shown)
    assert bits is not None
    assert 1 < float(bits[1]) < 8  # it learned something, and not everything
    assert "the same reply in" in shown
    assert "an error: temperature" in shown


def test_next_tokens_are_changed_by_the_settings(tmp_path: Path) -> None:
    shown = run_example("next_tokens.py", tmp_path)
    blocks = shown.split("\ntemperature ")[1:]
    before, after = zip(*(probabilities(block) for block in blocks), strict=True)
    assert all(block == before[0] for block in before)  # the model itself stays the same
    unchanged, sharp, flat, top_5, _ = after
    assert unchanged == before[0]
    assert sharp[0] > unchanged[0] > flat[0]
    assert top_5.count(0.0) == 3
    assert sum(top_5) == pytest.approx(1.0, abs=1e-3)


def probabilities(block: str) -> tuple[list[float], list[float]]:
    rows = re.findall(r" ([\d.]+) -> +([\d.]+)", block)
    return [float(before) for before, _ in rows], [float(after) for _, after in rows]


def test_attention_computed_step_by_step_equals_that_of_the_model(tmp_path: Path) -> None:
    shown = run_example("multi_head_attention.py", tmp_path)
    assert "equal to the model's own attention" in shown
    shapes = [ast.literal_eval(text) for text in re.findall(r"(\([\d, ]+\))$", shown, re.M)]
    assert shapes[0] == shapes[-1]  # attention keeps the shape of its input


def test_attention_rows_add_up_to_one_and_the_picture_is_valid(tmp_path: Path) -> None:
    shown = run_example("draw_attention.py", tmp_path)
    rows = [re.findall(r"(\d+)%", line) for line in shown.splitlines() if line.endswith(("%", "."))]
    rows = [[int(share) for share in row] for row in rows if row]
    assert [len(row) for row in rows] == list(range(1, len(rows) + 1))  # no token looks ahead
    assert all(abs(sum(row) - 100) <= len(row) for row in rows)  # each share is rounded
    picture = ElementTree.parse(tmp_path / "attention.svg").getroot()
    squares = [child for child in picture if child.tag.endswith("rect") and len(child)]
    assert len(squares) == sum(len(row) for row in rows)
