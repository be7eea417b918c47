"""The names of checkpoints, and best.json and last.json, which say the one of them that counts; found again where damaged."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from simplellm.errors import CheckpointError
from simplellm.storage.files import replace_file
from simplellm.storage.json_files import json_bytes, read_json
from simplellm.storage.manifest import is_intact

STEP_NAME = re.compile(r"step-(\d{6,})")
Pointer = dict[str, Any]  # "step", "path" (the folder's name), and how that checkpoint was scored


def step_name(step: int) -> str:
    return f"step-{step:06d}"


def step_of(folder: Path) -> int:
    match = STEP_NAME.fullmatch(folder.name)
    return int(match[1]) if match else -1


def step_folders(run: Path) -> list[Path]:
    """Folders named as checkpoints, newest step first; they may be damaged."""
    folders = [
        path for path in run.glob("step-*") if STEP_NAME.fullmatch(path.name) and path.is_dir()
    ]
    return sorted(folders, key=step_of, reverse=True)


def write_pointer(run: Path, which: str, step: int, figures: dict[str, Any]) -> None:
    replace_file(
        run / f"{which}.json", json_bytes({**figures, "step": step, "path": step_name(step)})
    )


def read_pointer(run: Path, which: str) -> Pointer | None:
    """The content of best.json or last.json, made up from the checkpoints where it is damaged; None where there is none."""
    return _written(run, which) or pointer_among(step_folders(run), which)


def pointer_among(folders: list[Path], which: str) -> Pointer | None:
    """What best.json or last.json would say if there were only these checkpoints, newest first."""
    known = [
        {**_evaluation_of(folder), "step": step_of(folder), "path": folder.name}
        for folder in folders
    ]
    if which == "last":
        return known[0] if known else None
    scored = [
        pointer for pointer in reversed(known) if "val_loss" in pointer
    ]  # of equal ones the first
    return min(scored, key=lambda pointer: pointer["val_loss"], default=None)


def pointer_to_whole(run: Path, which: str, whole: list[Path]) -> Pointer | None:
    """As `read_pointer`, of those `whole`."""
    pointer = _written(run, which)
    return pointer if pointer and run / pointer["path"] in whole else pointer_among(whole, which)


def mend_pointers(run: Path) -> None:
    """Let best.json and last.json name whole checkpoints again, where they do not."""
    whole = [folder for folder in step_folders(run) if is_intact(folder)]
    for which in ("best", "last"):
        pointer = pointer_to_whole(run, which, whole)
        if pointer and pointer != _written(run, which):
            write_pointer(run, which, pointer["step"], pointer)


def _written(run: Path, which: str) -> Pointer | None:
    try:
        pointer = read_json(run / f"{which}.json")
        name, figures = pointer.pop("path"), numbers(pointer)
        is_sane = type(figures["step"]) is int and step_name(figures["step"]) == name
    except (CheckpointError, KeyError, ValueError):
        return None
    return {**figures, "path": name} if is_sane else None


def _evaluation_of(folder: Path) -> dict[str, Any]:
    """How a checkpoint was scored, as it says itself; empty where it was not, or is too damaged to tell."""
    try:
        return numbers(read_json(folder / "training" / "state.json")["evaluation"])
    except (CheckpointError, KeyError, ValueError):
        return {}


def numbers(figures: Any) -> dict[str, Any]:
    """Figures that were read from a file; ValueError where they are not numbers by name."""
    if not isinstance(figures, dict) or any(
        type(figure) not in (int, float) for figure in figures.values()
    ):
        raise ValueError("figures that are no numbers")
    return figures


def best_by(step: int, figures: Any) -> dict[str, Any]:
    """The best evaluation up to `step`, as a file says it; ValueError or KeyError where there can be no such one."""
    best = numbers(figures)
    least = {"step": 1, "tokens": 1, "bytes": 1, "val_loss": 0, "accuracy": 0}
    if (
        type(best["step"]) is not int
        or best["step"] > step
        or any(best[name] < least[name] for name in least)
    ):
        raise ValueError("a best evaluation that cannot be")
    return best
