"""The wheel contains all files that the program needs, and complete metadata."""

from __future__ import annotations

import email
import subprocess
import sys
import zipfile
from email.message import Message
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import ROOT, TINY_FLAGS
from program import environment

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
URLS = ("Homepage", "Documentation", "Repository", "Issues", "Changelog")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sources without network access."""
    if find_spec("hatchling") is None:
        pytest.skip(
            'the wheel cannot be built: hatchling is not installed (pip install -e ".[test]")'
        )
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=120
    )
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def unpacked(wheel: Path) -> Path:
    """The folder of the wheel's files; the libraries are those of the tests."""
    folder = wheel.parent / "unpacked"
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


@pytest.fixture(scope="session")
def metadata(unpacked: Path) -> Message:
    (path,) = unpacked.glob("*.dist-info/METADATA")
    return email.message_from_string(path.read_text(encoding="utf-8"))


def run(
    unpacked: Path, folder: Path, *arguments: str, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """`simplellm ARGUMENTS` from the unpacked wheel, in a folder of its own."""
    env = environment(PYTHONPATH=str(unpacked), HOME=str(folder), PYTHONIOENCODING="utf-8")
    command = [sys.executable, "-m", "simplellm", *arguments]
    return subprocess.run(
        command,
        input=stdin,
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=600,
    )


def test_the_wheel_holds_every_file_of_the_package_and_the_story(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = [
        path
        for path in (ROOT / "simplellm").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert names == {path.relative_to(ROOT).as_posix() for path in files} | {
        "simplellm/the-verdict.txt"
    }
    assert (
        zipfile.ZipFile(wheel).read("simplellm/the-verdict.txt")
        == (ROOT / "the-verdict.txt").read_bytes()
    )


def test_the_story_is_in_the_repository_once() -> None:
    assert not (ROOT / "simplellm" / "the-verdict.txt").exists()


def test_the_metadata_is_complete(metadata: Message) -> None:
    classifiers, urls = metadata.get_all("Classifier", []), metadata.get_all("Project-URL", [])
    assert (metadata["Name"], metadata["License-Expression"], metadata["Requires-Python"]) == (
        "simplellm",
        "MIT",
        ">=3.10",
    )
    assert (
        metadata["Summary"]
        and metadata["Keywords"]
        and metadata["Author"]
        and metadata["License-File"] == "LICENSE"
    )
    assert [
        f"Programming Language :: Python :: {version}" in classifiers for version in PYTHONS
    ] == [True] * 5
    assert (
        "Typing :: Typed" in classifiers
        and len({one.partition(" :: ")[0] for one in classifiers}) >= 6
    )
    assert [url.partition(", ")[0] for url in urls] == sorted(
        URLS, key=[url.partition(", ")[0] for url in urls].index
    )
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().lstrip().startswith("# ")  # the README


def test_the_version_is_that_of_the_program(metadata: Message) -> None:
    import simplellm

    assert metadata["Version"] == simplellm.__version__


def test_the_program_starts_from_the_wheel_in_an_empty_folder(
    unpacked: Path, tmp_path: Path
) -> None:
    done = run(unpacked, tmp_path, "--version")
    assert (done.returncode, done.stderr) == (0, "") and "simplellm" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_program_runs_from_the_wheel_in_an_empty_folder(unpacked: Path, tmp_path: Path) -> None:
    done = run(
        unpacked, tmp_path, "sweep", "--max-steps", "2", *(flag for flag in TINY_FLAGS), "--json"
    )
    assert done.returncode == 0, done.stderr
    (text,) = (tmp_path / "checkpoints").glob("*/run.json")
    assert f"{unpacked / 'simplellm' / 'the-verdict.txt'}" in text.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_first_run_from_the_wheel_trains_on_the_story_and_answers(
    unpacked: Path, tmp_path: Path
) -> None:
    done = run(unpacked, tmp_path, stdin="The judge\n")
    assert done.returncode == 0, done.stderr
    assert "training one on the-verdict.txt" in done.stderr and done.stdout.startswith("The judge")
    assert len(done.stdout) > len("The judge\n") and list(
        (tmp_path / "checkpoints").glob("*/step-*/manifest.json")
    )
