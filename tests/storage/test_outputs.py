"""Files and folders at a path that a user names appear whole or not at all."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from conftest import posix_only

from simplellm.errors import SettingError
from simplellm.storage import files, outputs
from simplellm.storage.outputs import check_output, new_output

FAULTS = [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), SystemExit(143)]


def refused(path: Path, **options: bool) -> str:
    """The message of the refusal, with its fix."""
    settings = {"is_folder": False, "force": False, **options}
    with pytest.raises(SettingError) as found:
        check_output(path, replaceable=("a", "b"), **settings)
    return f"{found.value}; {found.value.fix}"


def write_folder(path: Path, *names: str, force: bool = False) -> None:
    with new_output(path, is_folder=True, force=force) as folder:
        for name in names:
            (folder / name).write_text(name)


# ---------------------------------------------------------------- checks


def test_a_path_in_a_missing_folder_is_refused_with_the_command_that_makes_it(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "missing"
    assert refused(folder / "model").endswith(f"create it: mkdir -p {folder}")


def test_a_folder_is_no_file_and_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "the folder" in refused(tmp_path, force=True)
    assert "the file" in refused(tmp_path / "file", is_folder=True, force=True)


@pytest.mark.parametrize("is_folder", [True, False])
def test_standard_output_is_refused_instead_of_a_file_with_that_name(is_folder: bool) -> None:
    assert "standard output" in refused(Path("-"), is_folder=is_folder, force=True)


def test_what_exists_is_replaced_only_with_force(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    write_folder(tmp_path / "folder", "a", "b")
    for name, is_folder in (("file", False), ("folder", True)):
        assert "--force" in refused(tmp_path / name, is_folder=is_folder)
        check_output(tmp_path / name, is_folder=is_folder, force=True, replaceable=("a", "b"))


def test_a_folder_with_anything_else_is_never_replaced(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", "a", "letters.txt")
    assert "letters.txt" in refused(tmp_path / "folder", is_folder=True, force=True)


def test_an_empty_folder_counts_as_missing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    check_output(tmp_path / "empty", is_folder=True, force=False)
    write_folder(tmp_path / "empty", "a")
    assert os.listdir(tmp_path / "empty") == ["a"]


@posix_only
def test_a_device_or_a_pipe_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "which is none" in refused(tmp_path / "pipe", force=True)


def test_a_folder_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    assert "cannot be written" in refused(tmp_path / "file")


# ---------------------------------------------------------------- writing


@pytest.mark.parametrize("name", ["model", "모델.gguf", "n" * 255, "-x y"])
def test_a_file_appears_with_its_content(tmp_path: Path, name: str) -> None:
    with new_output(tmp_path / name, is_folder=False, force=False) as path:
        path.write_text("whole")
        assert not (tmp_path / name).exists()
    assert (tmp_path / name).read_text() == "whole" and os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize("is_folder", [True, False])
@pytest.mark.parametrize("exists", [True, False])
def test_a_failure_leaves_the_old_state_and_nothing_else(
    tmp_path: Path, fault: BaseException, is_folder: bool, exists: bool
) -> None:
    target = tmp_path / "target"
    if exists and is_folder:
        write_folder(target, "old")
    elif exists:
        target.write_text("old")
    with (
        pytest.raises(type(fault)),
        new_output(target, is_folder=is_folder, force=True) as path,
    ):
        (path / "a" if is_folder else path).write_text("half")
        raise fault
    assert os.listdir(tmp_path) == (["target"] if exists else [])
    if exists:
        assert (os.listdir(target) == ["old"]) if is_folder else target.read_text() == "old"


@pytest.mark.parametrize("is_folder", [True, False])
def test_a_failed_rename_brings_the_old_state_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_folder: bool
) -> None:
    target = tmp_path / "target"
    if is_folder:
        write_folder(target, "old")
    else:
        target.write_text("old")
    original = files._rename

    def fail_at_the_target(action: object, source: Path, to: Path) -> None:
        if to == target:
            raise OSError(errno.EIO, "Input/output error")
        original(action, source, to)

    monkeypatch.setattr(files, "_rename", fail_at_the_target)
    with (
        pytest.raises(OSError, match="Input"),
        new_output(target, is_folder=is_folder, force=True) as path,
    ):
        (path / "a" if is_folder else path).write_text("new")
    assert os.listdir(tmp_path) == ["target"]


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with (
        pytest.raises(FileExistsError),
        new_output(target, is_folder=False, force=False) as path,
    ):
        path.write_text("new")
        target.write_text("of another program")
    assert target.read_text() == "of another program" and os.listdir(tmp_path) == ["target"]


def test_a_file_system_without_links_is_written_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*paths: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    for expected in ("new", "old"):
        with (
            pytest.raises(FileExistsError) if expected == "old" else threading.Lock(),
            new_output(tmp_path / "target", is_folder=False, force=False) as path,
        ):
            path.write_text(expected)
    assert (tmp_path / "target").read_text() == "new"


@posix_only
def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("old")
    (tmp_path / "link").symlink_to("there")
    with new_output(tmp_path / "link", is_folder=False, force=True) as path:
        path.write_text("new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "there").read_text() == "new"


@posix_only
def test_what_a_killed_process_left_is_removed_by_the_next_write_to_the_same_path(
    tmp_path: Path,
) -> None:
    with new_output(tmp_path / "target", is_folder=False, force=False) as path:
        path.write_text("whole")
        left = path.parent.with_name(path.parent.name[:-8] + "0" * 8)  # as if of a dead process
        other = path.parent.with_name(".tmp-export-00000000-" + "0" * 8)  # of another path
    for folder in (left, other):
        folder.mkdir()
        (folder / "file").write_text("half")
    with new_output(tmp_path / "target", is_folder=False, force=True) as path:
        assert not left.exists() and other.exists()
        path.write_text("again")
    assert sorted(os.listdir(tmp_path)) == [other.name, "target"]
    assert outputs.TEMPORARY_MARK in other.name
