"""Environment defaults: set on request only, and never over a user's value."""

from __future__ import annotations

import subprocess
import sys

import pytest

from simplellm.config import environment as environments
from simplellm.config.environment import SHORT_SPIN, set_defaults


@pytest.fixture
def measured_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "busy_seconds", lambda: 1.0)


def test_importing_the_package_changes_no_environment_variable_and_imports_no_torch() -> None:
    code = (
        "import os, sys; before = dict(os.environ)\n"
        "import simplellm, simplellm.config.environment\n"
        "sys.exit(before != dict(os.environ) or 'torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "name",
    ["GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OPENBLAS_NUM_THREADS", "PYTORCH_ENABLE_MPS_FALLBACK"],
)
def test_a_value_set_by_the_user_stays(name: str) -> None:
    environment = {name: "7"}
    set_defaults(environment)
    assert environment[name] == "7" and "OPENBLAS_NUM_THREADS" in environment


def test_with_a_wait_policy_of_the_user_no_other_wait_setting_is_made() -> None:
    environment = {"OMP_WAIT_POLICY": "active"}
    set_defaults(environment)
    assert environment == {
        "OMP_WAIT_POLICY": "active",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTORCH_ENABLE_MPS_FALLBACK": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }


def test_threads_of_libgomp_spin_briefly_where_the_load_is_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(environments, "busy_seconds", lambda: None)
    environment: dict[str, str] = {}
    set_defaults(environment)
    assert environment["GOMP_SPINCOUNT"] == SHORT_SPIN


@pytest.mark.usefixtures("measured_load")
def test_the_spin_of_libgomp_is_its_own_where_the_load_is_measured() -> None:
    environment: dict[str, str] = {}
    set_defaults(environment)
    assert "GOMP_SPINCOUNT" not in environment
