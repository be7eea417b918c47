"""Terminals that understand no escape sequence: TERM is dumb, unknown or missing."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

DUMB = "dumb"
NAMES = (DUMB, "unknown", "")


def name_dumb_terminal(environment: MutableMapping[str, str]) -> None:
    """Set TERM to "dumb" where it is missing or says that the terminal is unknown.

    All libraries recognise this name. Windows does not use TERM.
    """
    if os.name != "nt" and environment.get("TERM", "").lower() in NAMES:
        environment["TERM"] = DUMB


def is_dumb() -> bool:
    """Whether no escape sequence may be written."""
    return os.name != "nt" and os.environ.get("TERM", "").lower() in NAMES
