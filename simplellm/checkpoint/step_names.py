"""Names of checkpoint folders: step-000400 holds the state after step 400."""

from __future__ import annotations

import re
from pathlib import Path

STEP_NAME = re.compile(r"step-(\d{6,})")


def step_name(step: int) -> str:
    return f"step-{step:06d}"


def step_of(folder: Path) -> int:
    """The step in the name of a checkpoint folder; -1 for another name."""
    match = STEP_NAME.fullmatch(folder.name)
    return int(match[1]) if match else -1


def step_folders(run: Path) -> list[Path]:
    """Folders of a run with the name of a checkpoint, newest first; they may be damaged."""
    folders = [path for path in run.glob("step-*") if step_of(path) >= 0 and path.is_dir()]
    return sorted(folders, key=step_of, reverse=True)
