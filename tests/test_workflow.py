"""The CI workflow is valid and covers the systems and Python versions of the metadata."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "tests.yml"
TEXT = WORKFLOW.read_text(encoding="utf-8")
METADATA = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
SYSTEMS = {
    "POSIX :: Linux": "ubuntu-latest",
    "MacOS": "macos-latest",
    "Microsoft :: Windows": "windows-latest",
}
LINTERS = {
    "check-jsonschema": ["--builtin-schema", "vendor.github-workflows"],
    "zizmor": ["--offline", "--no-progress"],
}


def matrix(name: str) -> list[str]:
    found = re.search(rf"^ +{name}: \[(.*)\]$", TEXT, re.MULTILINE)
    assert found is not None
    return [value.strip().strip('"') for value in found[1].split(",")]


@pytest.mark.parametrize("linter", LINTERS)
def test_linters_accept_the_workflow(linter: str) -> None:
    program = shutil.which(
        linter, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    )
    if program is None:
        pytest.skip(f'{linter} is not installed (pip install -e ".[test]")')
    command = [program, *LINTERS[linter], str(WORKFLOW)]
    done = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_listed_system_and_python_is_tested() -> None:
    listed = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', METADATA)
    assert matrix("python") == listed and f'requires-python = ">={listed[0]}"' in METADATA
    assert sorted(matrix("os")) == sorted(SYSTEMS.values())
    assert all(f'"Operating System :: {system}"' in METADATA for system in SYSTEMS)


def test_the_workflow_runs_the_commands_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert 'pip install -e ".[test]" && python -m pytest ' in readme
    for command in (
        'pip install -e ".[test]"',
        "python -m pytest",
        "ruff check .",
        "ruff format --check .",
        "mypy",
    ):
        assert command in TEXT
    apple_job = TEXT.partition("apple-gpu:")[2]
    assert "runs-on: macos-latest" in apple_job and "mps.is_available" in apple_job
    assert "python main.py --device mps < /dev/null" in apple_job


def test_the_workflow_has_minimal_permissions_and_timeouts() -> None:
    jobs = re.findall(
        r"^  [a-z-]+:\n(?:    .*\n|\n)+", TEXT.partition("\njobs:\n")[2], re.MULTILINE
    )
    assert len(jobs) == 4 and all("timeout-minutes:" in job for job in jobs)
    assert (
        re.findall(r"^permissions:\n  (.*)$", TEXT, re.MULTILINE) == ["contents: read"]
        and TEXT.count("permissions:") == 1
    )
    assert (
        TEXT.count("fail-fast: false") == TEXT.count("matrix:")
        and "upload-artifact" not in TEXT
        and "secrets." not in TEXT
    )
    assert TEXT.count("persist-credentials: false") == TEXT.count("actions/checkout@") == len(jobs)
