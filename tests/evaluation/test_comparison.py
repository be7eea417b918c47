"""Comparison of runs: differences, figures that do not compare, and one picture."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from simplellm.checkpoint.run import RunFolder
from simplellm.errors import CheckpointError
from simplellm.evaluation.comparison import ComparedRun, cautions, differences, picture_name
from simplellm.evaluation.comparison_chart import COLORS, DASHES, comparison_svg


@pytest.fixture
def changed(trained: Path, tmp_path: Path):
    """`changed(name, **keys)`: a copy of the run `tiny` with other keys in its run.json."""

    def changed(name: str, **keys: object) -> ComparedRun:
        run = RunFolder(shutil.copytree(trained / "tiny", tmp_path / name))
        run.write_info({**run.read_info(), **keys})
        return ComparedRun.read(run)

    return changed


def test_only_settings_that_differ_are_listed(changed, trained):
    info = RunFolder(trained / "tiny").read_info()
    other = changed("b", training={**info["training"], "learning_rate": 0.5}, device="cuda")
    assert differences([changed("a"), other]) == {
        "learning_rate": (info["training"]["learning_rate"], 0.5),
        "device": (info["device"], "cuda"),
    }


def test_former_names_of_settings_are_the_same_settings(changed, trained):
    training = dict(RunFolder(trained / "tiny").read_info()["training"])
    training["consistency"] = training.pop("r_drop")
    assert differences([changed("a"), changed("b", training=training)]) == {}


def test_figures_on_different_validation_texts_are_not_comparable(changed, trained):
    training = RunFolder(trained / "tiny").read_info()["training"]
    same, other = changed("a"), changed("b", fingerprint={"x.txt": "0" * 64})
    part = changed("c", training={**training, "val_fraction": 0.2})
    own = changed("d", val_fingerprint={"v.txt": "1" * 64})
    unknown = changed("e", fingerprint=None)
    assert cautions([same, changed("f", texts=["elsewhere.txt"])]) == []
    for run in (other, part, own):
        assert "not comparable" in cautions([same, run])[0]
    assert "unknown" in cautions([same, unknown])[0]


def test_with_another_tokenizer_only_bits_per_byte_compare(changed):
    runs = [changed("a"), changed("b", tokenizer_fingerprint="other")]
    assert "compare bits per byte" in cautions(runs)[0]
    assert "bits per byte" in comparison_svg(runs, "t")


def test_a_picture_has_a_curve_and_a_line_of_the_legend_for_each_run(changed):
    runs = [changed(f"run-{i}<&한글") for i in range(len(COLORS) + 1)]
    root = ElementTree.fromstring(comparison_svg(runs, "<title>"))
    paths = [node for node in root.iter() if node.tag.endswith("path")]
    looks = [(node.get("stroke"), node.get("stroke-dasharray", "")) for node in paths]
    expected = [*((color, "") for color in COLORS), (COLORS[0], DASHES[1])]
    assert [looks.count(look) for look in expected] == [3] * len(runs), "2 curves and the legend"
    assert sum(node.get("stroke-opacity") is not None for node in paths) == len(runs)
    assert "run-8<&한글: best" in "".join(root.itertext())


def test_runs_without_any_evaluation_have_a_picture(changed, tmp_path):
    run = changed("a")
    (tmp_path / "a" / "log.jsonl").unlink()
    (tmp_path / "a" / "best.json").unlink()
    shutil.rmtree(tmp_path / "a" / "step-000030")
    empty = ComparedRun.read(RunFolder(tmp_path / "a"))
    root = ElementTree.fromstring(comparison_svg([empty, run], "t"))
    assert any(node.tag.endswith("}path") for node in root.iter())  # the curves of the other run


def test_the_name_of_a_picture_fits_every_file_system(changed):
    names = [picture_name([changed("왔" * 40), changed("다" * 40)]), picture_name([changed("a")])]
    assert names == ["compare-2-runs", "compare-a"]


def test_a_run_with_a_damaged_run_json_is_one_typed_error(trained, tmp_path):
    shutil.copytree(trained / "tiny", tmp_path / "x")
    (tmp_path / "x" / "run.json").write_text("{")
    with pytest.raises(CheckpointError):
        ComparedRun.read(RunFolder(tmp_path / "x"))
