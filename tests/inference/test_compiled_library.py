"""C code is compiled once, where there is a compiler that works, into a folder of the user."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest
from conftest import posix_only

from simplellm.inference import compiled_library as module
from simplellm.inference.compiled_library import compiled_library

pytestmark = posix_only


@pytest.fixture
def new_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "simplellm"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "answer.c"
    path.write_text('#include "answer.h"\nint answer(void) { return ANSWER; }\n')
    (tmp_path / "answer.h").write_text("#define ANSWER 42\n")
    return path


@pytest.fixture
def compiler() -> None:
    if not any(map(shutil.which, module.COMPILERS)):
        pytest.skip("no C compiler here")


def test_a_library_is_compiled_once(compiler, source, new_cache, monkeypatch):
    library = compiled_library([source])
    assert library is not None and library.answer() == 42
    files = list(new_cache.iterdir())
    monkeypatch.setattr(module, "_compile", lambda *arguments: pytest.fail("compiled again"))
    assert compiled_library([source]) is not None
    assert list(new_cache.iterdir()) == files and len(files) == 1


@pytest.mark.parametrize("name", ["answer.c", "answer.h"])
def test_other_sources_and_headers_get_another_library(compiler, source, new_cache, name):
    assert compiled_library([source]) is not None
    changed = source.with_name(name)
    changed.write_text(changed.read_text() + "/* changed */\n")
    assert compiled_library([source]) is not None and len(list(new_cache.iterdir())) == 2


@pytest.mark.parametrize("content", ["#!/bin/sh\nexit 1\n", "#!/bin/sh\nexit 0\n", "no program"])
def test_a_compiler_that_fails_is_not_used(source, new_cache, monkeypatch, tmp_path, content):
    compiler = tmp_path / "compiler"
    compiler.write_text(content)
    compiler.chmod(0o700)
    monkeypatch.setenv("CC", str(compiler))
    assert compiled_library([source]) is None and list(new_cache.iterdir()) == []


def test_without_a_compiler_there_is_none(source, new_cache, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert compiled_library([source]) is None


def test_a_folder_that_others_may_write_to_is_not_used(source, new_cache):
    new_cache.mkdir(parents=True)
    new_cache.chmod(0o777)
    assert compiled_library([source]) is None
    assert stat.S_IMODE(new_cache.stat().st_mode) == 0o777 and list(new_cache.iterdir()) == []
