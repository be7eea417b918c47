"""Pictures: escaping of any text, widths, and the files that they are saved in."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simplellm.errors import SettingError, SimpleLLMError
from simplellm.evaluation.picture import save, svg
from simplellm.evaluation.picture.save import check_picture_path, save_picture, write_picture

PICTURE = svg.document(100, 50, "a title", [svg.text(1, 20, "한글 <&> שלום")])


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_text_gives_well_formed_xml_and_keeps_its_valid_characters(text: str) -> None:
    root = ElementTree.fromstring(svg.document(10, 10, text, [svg.text(0, 0, text)]))
    shown = "".join(root.itertext()).split("}}")[-1]
    assert len(shown.strip("\n ")) <= len(text)
    assert all(character in shown for character in text if character.isalnum())


@settings(deadline=None)
@given(st.text("ab 한\u0301<", max_size=60), st.floats(40, 200))
def test_wrapped_lines_fit_and_lose_nothing(text: str, width: float) -> None:
    lines = svg.wrapped(text, width)
    assert "".join(lines) == text
    assert all(svg.width_of(line.rstrip()) <= width for line in lines)


def test_hangul_is_wider_than_latin_and_combining_marks_have_no_width() -> None:
    assert svg.width_of("한") > svg.width_of("a") and svg.width_of("e\u0301") == svg.width_of("e")
    assert svg.fitted("abc", 100) == "abc" and svg.fitted("한글한글", 40).endswith("…")


@pytest.mark.parametrize("name", ["a.svg", "a.html", "a.SVG"])
def test_svg_and_html_are_self_contained_xml(tmp_path: Path, name: str) -> None:
    save_picture(tmp_path / name, PICTURE, "한글 <title>")
    text = (tmp_path / name).read_text(encoding="utf-8")
    ElementTree.fromstring(text)
    assert "한글 &lt;&amp;&gt; שלום" in text and "href" not in text and "src=" not in text
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_png_is_drawn_at_twice_the_size(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py", reason="the extra `pictures` is not installed")
    save_picture(tmp_path / "a.png", PICTURE, "t")
    data = (tmp_path / "a.png").read_bytes()
    assert data.startswith(b"\x89PNG") and int.from_bytes(data[16:20], "big") == 200


def test_a_png_without_its_package_names_the_extra(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(SettingError, match="resvg-py") as found:
        check_picture_path(tmp_path / "a.png")
    assert "simplellm[pictures]" in found.value.fix


@pytest.mark.parametrize("name", ["a.gif", "a", "a.svgz", "missing/a.svg"])
def test_a_wrong_name_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingError) as found:
        save_picture(tmp_path / name, PICTURE, "t")
    assert found.value.fix and list(tmp_path.iterdir()) == []


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.svg").write_text("mine")
    with pytest.raises(SettingError, match="exists"):
        save_picture(tmp_path / "a.svg", PICTURE, "t")
    assert (tmp_path / "a.svg").read_text() == "mine"


def test_a_failed_write_is_one_error_and_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    def fail(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(save, "replace_file", fail)
    with pytest.raises(SimpleLLMError, match="No space left"):
        write_picture(tmp_path / "a.svg", PICTURE, "t")
    assert list(tmp_path.iterdir()) == []
