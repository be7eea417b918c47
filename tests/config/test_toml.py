"""TOML files of settings: read flat, refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from simplellm.config.toml import read_toml
from simplellm.errors import SettingError


def _toml(folder: Path, content: str | bytes) -> Path:
    path = folder / "settings.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_toml_tables_only_group_settings(tmp_path: Path) -> None:
    flat = read_toml(_toml(tmp_path, "n_layer = 2\nseed = 3"))
    assert (
        read_toml(_toml(tmp_path, "[model]\nn_layer = 2\n[training]\nseed = 3"))
        == flat
        == {"n_layer": 2, "seed": 3}
    )


@pytest.mark.parametrize("content", ["n_layr = 3", "[model]\nn_layr = 3"])
def test_an_unknown_toml_key_is_refused_with_a_suggestion(tmp_path: Path, content: str) -> None:
    path = _toml(tmp_path, content)
    with pytest.raises(SettingError, match="no setting is called 'n_layr'") as caught:
        read_toml(path)
    assert caught.value.fix == "did you mean n_layer?" and str(path) in str(caught.value)


def test_a_toml_key_belongs_to_its_table(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"'n_layer' in \[training\]"):
        read_toml(_toml(tmp_path, "[training]\nn_layer = 3"))


@pytest.mark.parametrize(
    "content",
    ["n_layer =", "= 3", b"\xff", "[model", "a = " + "[" * 100_000],
    ids=["no value", "no key", "not UTF-8", "open table", "deep"],
)
def test_invalid_toml_is_one_setting_error(tmp_path: Path, content: str | bytes) -> None:
    with pytest.raises(SettingError, match="is not TOML"):
        read_toml(_toml(tmp_path, content))


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_toml_file_that_cannot_be_read_is_one_setting_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingError, match="^cannot read "):
        read_toml(tmp_path / name)


@pytest.mark.parametrize("table", ["", "[training]\n"])
@pytest.mark.parametrize(
    ("alias", "name"), [("min_learning_rate", "min_lr_ratio"), ("consistency", "r_drop")]
)
def test_a_former_name_in_a_toml_file_is_read_as_the_current_one(
    tmp_path: Path, alias: str, name: str, table: str
) -> None:
    assert read_toml(_toml(tmp_path, f"{table}{alias} = 0.5")) == {name: 0.5}
    with pytest.raises(SettingError, match=f"^{alias} is the former name of {name}"):
        read_toml(_toml(tmp_path, f"{table}{alias} = 0.5\n{name} = 0.5"))
    with pytest.raises(SettingError, match=f"^{alias} is the former name of {name}"):
        read_toml(_toml(tmp_path, f"{alias} = 0.5\n[training]\n{name} = 0.5"))


@pytest.mark.parametrize(
    ("content", "what", "fix"),
    [
        ("learnin_rate = 1e-3", "learnin_rate", "did you mean learning_rate?"),
        ("[training]\nlearning-rate = 1e-3", "learning-rate", "did you mean learning_rate?"),
        ("[trainng]\nseed = 1", "no table is called [trainng]", "did you mean [training]?"),
        ("[Model]\nn_layer = 1", "no table is called [Model]", "did you mean [model]?"),
        ("[x]\nseed = 1", "no table is called [x]", "tables: [model], [training]"),
        ("[training]\nn_layer = 3", "n_layer' in [training]", "write n_layer below [model]"),
        ("xyzzy = 3", "xyzzy", "simplellm train --help lists the settings"),
    ],
)
def test_a_wrong_name_in_a_toml_file_has_a_suggestion(tmp_path, content, what, fix):
    path = tmp_path / "a.toml"
    path.write_text(content)
    with pytest.raises(SettingError) as caught:
        read_toml(path)
    assert what in str(caught.value) and caught.value.fix == fix
