"""Runs are found by name or path, and new runs have valid and unused names."""

from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path

import pytest
from conftest import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from simplellm.checkpoint.find_runs import (
    find_checkpoint,
    find_run,
    free_name,
    list_runs,
    new_run,
)
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.run_names import is_run_name
from simplellm.errors import CheckpointError, SettingError


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """A checkpoints folder with the run `tiny`, which a test may damage."""
    return Path(shutil.copytree(trained, tmp_path / "checkpoints"))


def test_a_run_whose_folder_another_system_named_in_nfd_is_found_by_either_form(tmp_path):
    folder = tmp_path / unicodedata.normalize("NFD", "가나")
    RunFolder(folder).write_info({"started_at": "2026-01-01"})
    names = [unicodedata.normalize(form, "가나") for form in ("NFC", "NFD")]
    assert [find_run(name, tmp_path)[0].path for name in names] == [folder, folder]


def test_find_run_accepts_names_and_paths(trained):
    tiny = trained / "tiny"
    assert find_run("tiny", trained) == (RunFolder(tiny), None)
    assert find_run(str(tiny), Path("/nowhere")) == (RunFolder(tiny), None)
    assert find_run(None, trained) == (RunFolder(tiny), None)
    run, folder = find_run(str(tiny / "step-000020"), trained)
    assert (run.name, folder) == ("tiny", tiny / "step-000020")
    assert (
        find_checkpoint(str(tiny / "step-000020"), trained, lambda text: None)
        == tiny / "step-000020"
    )


@pytest.mark.parametrize(
    "name", ["a b", ".hidden", "-x", "x" * 101, "é" * 101, "a:b", "*", "a\nb", "a\x00b"]
)
def test_an_invalid_run_name_is_a_usage_error(trained, name):
    with pytest.raises(SettingError) as found:
        find_run(name, trained)
    with pytest.raises(SettingError):
        new_run(name, trained)
    assert found.value.exit_code == 2


@pytest.mark.parametrize("name", ["con", "NUL", "aux.txt", "Com1", "lpt9.a.b", "run.", "a.."])
def test_a_new_run_has_a_name_that_is_valid_on_every_system(trained, name):
    with pytest.raises(SettingError):
        new_run(name, trained)
    free = free_name(name, trained)
    assert new_run(free, trained).name == free


@pytest.mark.parametrize("name", ["nothing", "./nothing", "/nowhere/at/all"])
def test_a_missing_run_is_not_a_usage_error(trained, name):
    with pytest.raises(CheckpointError) as found:
        find_run(name, trained)
    assert found.value.exit_code == 1 and (name != "nothing" or "tiny" in found.value.fix)


def test_a_new_run_needs_an_unused_name(trained):
    assert not new_run("other", trained).path.exists()
    with pytest.raises(CheckpointError, match="already exists"):
        new_run("tiny", trained)
    with pytest.raises(SettingError):
        new_run("step-000010", trained)


def test_runs_are_listed_from_the_last_started(tmp_path):
    for name, started in (("a", "2024-05-01"), ("b", "2024-06-01"), ("c", "2024-04-01")):
        RunFolder(tmp_path / name).write_info({"started_at": started})
    assert [run.name for run in list_runs(tmp_path)] == ["b", "a", "c"]


def test_a_run_without_a_checkpoint_is_skipped(copy):
    RunFolder(copy / "newer").write_info({"started_at": "9999"})
    assert find_checkpoint(None, copy, lambda text: None).parent.name == "tiny"


@given(st.text(max_size=80))
@settings(deadline=None, max_examples=examples(100))
def test_a_free_name_is_always_valid(stem):
    name = free_name(stem, Path("/nowhere"))
    assert is_run_name(name) and new_run(name, Path("/nowhere")).name == name


def test_a_free_name_of_an_existing_run_has_a_number(trained, tmp_path):
    assert free_name("tiny", trained) == "tiny-2"
    assert free_name("tiny", tmp_path) == "tiny"
