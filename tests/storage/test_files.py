"""Atomic and durable file writes."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import posix_only

from simplellm.storage import files as storage
from simplellm.storage.files import new_folder, replace_file, sha256_of, write_file

FAULTS = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EIO, "Input/output error"),
    KeyboardInterrupt(),
]


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """System calls in order: ("fsync", (inode, size, or -1 for a folder)), ("replace" or "rename",
    target).
    """
    seen: list[tuple[str, Any]] = []
    fsync = os.fsync

    def record_fsync(handle: int) -> None:
        status = os.fstat(handle)
        seen.append(
            ("fsync", (status.st_ino, -1 if stat.S_ISDIR(status.st_mode) else status.st_size))
        )
        fsync(handle)

    def recorder(name: str) -> Callable[[Any, Any], None]:
        original = getattr(os, name)

        def record(source: Any, target: Any) -> None:
            seen.append((name, Path(target).name))
            original(source, target)

        return record

    monkeypatch.setattr(os, "fsync", record_fsync)
    for name in ("replace", "rename"):
        monkeypatch.setattr(os, name, recorder(name))
    return seen


def _inode(path: Path) -> int:
    return path.stat().st_ino


@posix_only
def test_a_replaced_file_is_synced_before_it_is_renamed(tmp_path: Path, events: list) -> None:
    replace_file(tmp_path / "a", b"whole")
    assert events == [
        ("fsync", (_inode(tmp_path / "a"), 5)), ("replace", "a"), ("fsync", (_inode(tmp_path), -1)),
    ]  # fmt: skip


@posix_only
def test_a_new_folder_is_synced_before_it_is_renamed(tmp_path: Path, events: list) -> None:
    with new_folder(tmp_path / "step") as temporary:
        (temporary / "training").mkdir()
        write_file(temporary / "a", b"first")
        write_file(temporary / "training" / "b", b"second")
    step = tmp_path / "step"
    files, folders, rest = events[:2], events[2:4], events[4:]
    assert files == [
        ("fsync", (_inode(step / "a"), 5)),
        ("fsync", (_inode(step / "training" / "b"), 6)),
    ]
    assert sorted(folders) == sorted(
        ("fsync", (_inode(folder), -1)) for folder in (step, step / "training")
    )
    assert rest == [("rename", "step"), ("fsync", (_inode(tmp_path), -1))]


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_replacement_leaves_only_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, fault: BaseException
) -> None:
    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(os, call, _raiser(fault))
    with pytest.raises(type(fault)):
        replace_file(tmp_path / "a", b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}


def test_a_partial_write_leaves_only_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half_a_write(path: Path, data: bytes) -> None:
        path.write_bytes(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(storage, "write_file", half_a_write)
    with pytest.raises(OSError, match="No space"):
        replace_file(tmp_path / "a", b"new and longer")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_new_folder_is_removed_if_it_cannot_be_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, fault: BaseException
) -> None:
    with pytest.raises(type(fault)), new_folder(tmp_path / "step") as temporary:
        (temporary / "a").write_bytes(b"whole")
        monkeypatch.setattr(os, call, _raiser(fault))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
def test_a_new_folder_is_removed_if_its_content_fails(tmp_path: Path, fault: BaseException) -> None:
    with pytest.raises(type(fault)), new_folder(tmp_path / "step") as temporary:
        (temporary / "a").write_bytes(b"part")
        raise fault
    assert list(tmp_path.iterdir()) == []


def test_a_new_folder_never_replaces_an_existing_one(tmp_path: Path) -> None:
    existing = tmp_path / "step"
    existing.mkdir()
    (existing / "a").write_bytes(b"old")
    with pytest.raises(OSError), new_folder(tmp_path / "step") as temporary:
        (temporary / "a").write_bytes(b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["step"] and (
        existing / "a"
    ).read_bytes() == b"old"


def test_a_new_folder_has_a_temporary_name_until_it_is_complete(tmp_path: Path) -> None:
    with new_folder(tmp_path / "deep" / "step") as temporary:
        assert not (tmp_path / "deep" / "step").exists() and temporary.parent == tmp_path / "deep"
    assert (tmp_path / "deep" / "step").is_dir()


def test_the_hash_of_a_long_file_covers_all_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * (storage.HASH_BLOCK_BYTES + 1))
    (tmp_path / "b").write_bytes(b"x" * storage.HASH_BLOCK_BYTES)
    assert sha256_of(tmp_path / "b") != sha256_of(tmp_path / "a")
    (tmp_path / "c").write_bytes(b"abc")
    assert (
        sha256_of(tmp_path / "c")
        == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def _raiser(fault: BaseException) -> Callable[..., None]:
    def fail(*_: Any) -> None:
        raise fault

    return fail
