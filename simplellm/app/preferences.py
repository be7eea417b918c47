"""Settings that are kept for each run, and the state folder of the user.

One JSON file for all runs, readable only by its owner:
`{"version": 1, "runs": {"/path/of/run": {"temperature": 0.5}}}`.
It contains only settings that the user changed. Invalid values are ignored, with a notice.
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
from simplellm.storage.user_paths import expand_user

VERSION = 1
OWNER_ONLY = 0o600
OWNER_ONLY_FOLDER = 0o700
MOST_BYTES = 10_000_000  # a larger file was not written by this program
SWITCHES = ("context", "probs")  # on or off, kept beside the sampling settings


def state_folder() -> Path | None:
    """The folder of history, conversations and settings: in XDG_STATE_HOME or ~/.local/state.

    It may not exist yet. None if the home folder of the user is unknown.
    """
    named = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(named):
        return Path(named, "simplellm")
    try:
        return Path(expand_user("~"), ".local", "state", "simplellm")
    except SettingError:
        return None


def make_private(folder: Path) -> None:
    """Create a folder that only its owner can open; OSError if the system refuses."""
    folder.mkdir(mode=OWNER_ONLY_FOLDER, parents=True, exist_ok=True)


class Preferences:
    """Reads and writes the file. The first failure is reported to `notice`; none raises."""

    def __init__(self, path: Path, notice: Notice = lambda text: None) -> None:
        self._path = path
        self._notice = notice
        self._has_reported = False

    def read(self, run: Path) -> dict[str, Any]:
        """The valid values kept for `run`: sampling settings and SWITCHES by name."""
        return self._read_all().get(str(run.resolve()), {})

    def write(self, run: Path, values: Mapping[str, Any]) -> None:
        """Keep `values` for `run` in place of its old ones. Other runs keep theirs."""
        runs = {**self._read_all(), str(run.resolve()): dict(values)}
        content = {"version": VERSION, "runs": {name: kept for name, kept in runs.items() if kept}}
        try:
            make_private(self._path.parent)
            replace_file(self._path, json.dumps(content, indent=1).encode(), OWNER_ONLY)
        except OSError as error:
            self._report(f"settings are not kept: cannot write {self._path} ({error.strerror})")

    def _read_all(self) -> dict[str, dict[str, Any]]:
        try:
            if not self._path.exists():
                return {}
            if self._path.stat().st_size > MOST_BYTES:
                raise ValueError("too long")
            runs = json.loads(self._path.read_bytes())["runs"]
        except OSError as error:
            self._report(f"cannot read {self._path} ({error.strerror}); using the default settings")
            return {}
        except (ValueError, TypeError, KeyError, RecursionError):
            runs = None
        if not isinstance(runs, dict):
            self._report(f"{self._path} is damaged; using the default settings")
            return {}
        return {str(run): self._checked(kept) for run, kept in runs.items()}

    def _checked(self, kept: Any) -> dict[str, Any]:
        values = _valid(kept) if isinstance(kept, dict) else {}
        if not isinstance(kept, dict) or len(values) < len(kept):
            self._report(f"{self._path} contains invalid settings; they are ignored")
        return values

    def _report(self, text: str) -> None:
        if not self._has_reported:
            self._notice(text)
        self._has_reported = True


def _valid(kept: Mapping[str, Any]) -> dict[str, Any]:
    """The settings and switches with a known name and an allowed value."""
    values: dict[str, Any] = {}
    for name, value in kept.items():
        if name in SWITCHES and isinstance(value, bool):
            values[name] = value
        elif name in SamplingParams.names():
            with contextlib.suppress(SettingError):
                values[name] = SamplingParams.setting(name).check(value)
    return values
