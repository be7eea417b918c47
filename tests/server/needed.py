"""Skips whoever imports it where the extra `serve` is not installed."""

from __future__ import annotations

import pytest

for package in ("starlette", "uvicorn"):
    pytest.importorskip(package, reason=f"the extra `serve` is not installed: no {package}")
