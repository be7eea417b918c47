"""Every safeguard is tested: removing it makes a test fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from faults.mutations import MUTATIONS, copy_of_the_project, is_noticed, run_tests


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.safeguard)
def test_each_mutation_matches_the_source_once(mutation):
    root = Path(__file__).resolve().parents[2]
    assert (root / mutation.file).read_text(encoding="utf-8").count(mutation.text) == 1
    for file, _, name in (test.partition("::") for test in mutation.tests):
        assert f"def {name}(" in (root / file).read_text(encoding="utf-8") or not name


@pytest.mark.slow
def test_removing_any_safeguard_fails_a_test(tmp_path: Path, report_count: Callable[[str], None]):
    project = copy_of_the_project(tmp_path)
    assert (
        run_tests(
            tuple(sorted({test for mutation in MUTATIONS for test in mutation.tests})), project
        )
        == 0
    )
    unnoticed = [mutation.safeguard for mutation in MUTATIONS if not is_noticed(mutation, project)]
    report_count(f"{len(MUTATIONS)} safeguards removed: {len(unnoticed)} unnoticed")
    assert unnoticed == []
