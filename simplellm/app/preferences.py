"""The settings of each run, kept between sessions, and the folder where what people do here is remembered.

One JSON file for all runs, `{"version": 1, "runs": {"/path/of/run": {"temperature": 0.5}}}`, its owner's alone.
It holds only what was set by hand; a value that cannot be read is passed over, and that is said.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simplellm.config.sampling import SamplingParams
from simplellm.errors import Notice, SettingError
from simplellm.storage.files import replace_file

VERSION = 1
OWNER_ONLY, OWNER_ONLY_FOLDER = 0o600, 0o700
MOST_BYTES = 10_000_000  # a larger file was not written here
SWITCHES = ("context", "probs")  # kept like the sampling settings, on or off


def state_folder() -> Path:
    """Where history, conversations and settings live: XDG_STATE_HOME, or ~/.local/state; it may not be there yet."""
    named = os.environ.get("XDG_STATE_HOME", "")
    home = Path(named) if os.path.isabs(named) else Path(os.path.expanduser("~"), ".local", "state")
    return home / "simplellm"


def make_private(folder: Path) -> None:
    """Make a folder that only its owner may enter; OSError where that is refused."""
    folder.mkdir(mode=OWNER_ONLY_FOLDER, parents=True, exist_ok=True)


class Preferences:
    """Reads and writes the file. A failure is told to `notice` once, and never more than that."""

    def __init__(self, path: Path, notice: Notice = lambda text: None) -> None:
        self._path = path
        self._notice = notice
        self._has_told = False

    def read(self, run: Path) -> dict[str, Any]:
        """What was set for `run`: sampling settings and SWITCHES by name, each of them allowed."""
        return self._read_all().get(str(run.resolve()), {})

    def write(self, run: Path, values: Mapping[str, Any]) -> None:
        """Keep `values` for `run`; those of the other runs stay."""
        runs = {**self._read_all(), str(run.resolve()): dict(values)}
        content = {"version": VERSION, "runs": {name: kept for name, kept in runs.items() if kept}}
        try:
            make_private(self._path.parent)
            replace_file(self._path, json.dumps(content, indent=1).encode(), OWNER_ONLY)
        except OSError as error:
            self._tell(f"settings are not kept: cannot write {self._path} ({error.strerror})")

    def _read_all(self) -> dict[str, dict[str, Any]]:
        try:
            if not self._path.exists():
                return {}
            if self._path.stat().st_size > MOST_BYTES:
                raise ValueError("too long")
            content = json.loads(self._path.read_bytes())
            runs = content["runs"]
        except OSError as error:
            self._tell(
                f"cannot read {self._path} ({error.strerror}); the settings are the defaults"
            )
            return {}
        except (ValueError, TypeError, KeyError, RecursionError):
            runs = None
        if not isinstance(runs, dict):
            self._tell(f"{self._path} is damaged; the settings are the defaults")
            return {}
        return {str(run): self._checked(kept) for run, kept in runs.items()}

    def _checked(self, kept: Any) -> dict[str, Any]:
        values = _allowed(kept) if isinstance(kept, dict) else {}
        if not isinstance(kept, dict) or len(values) < len(kept):
            self._tell(f"{self._path} holds settings that cannot be; they are passed over")
        return values

    def _tell(self, text: str) -> None:
        if not self._has_told:
            self._notice(text)
        self._has_told = True


def _allowed(kept: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in kept.items():
        if name in SWITCHES and isinstance(value, bool):
            values[name] = value
        elif name in SamplingParams.names():
            with contextlib.suppress(SettingError):
                values[name] = SamplingParams.setting(name).check(value)
    return values
