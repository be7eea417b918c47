"""best.json and last.json of a run: which checkpoint is the best one, and which the last.

A damaged or missing pointer is made again from the checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from simplellm.checkpoint.step_names import step_folders, step_name, step_of
from simplellm.errors import CheckpointError
from simplellm.storage.files import replace_file
from simplellm.storage.json_files import json_bytes, read_json
from simplellm.storage.manifest import is_intact

Which = Literal["best", "last"]
Figures = dict[str, Any]  # of an evaluation, by name: step, val_loss, bits_per_byte, ...
Pointer = dict[str, Any]  # "step", "path" (name of the folder), and the figures of its evaluation
MIN_FIGURES = {"step": 1, "tokens": 1, "bytes": 1, "val_loss": 0, "accuracy": 0}


def write_pointer(run: Path, which: Which, step: int, figures: Figures) -> None:
    content = {**figures, "step": step, "path": step_name(step)}
    replace_file(run / f"{which}.json", json_bytes(content))


def read_pointer(run: Path, which: Which) -> Pointer | None:
    """The content of best.json or last.json, or what it should be; None without checkpoints."""
    return _stored(run, which) or pointer_among(step_folders(run), which)


def pointer_among(folders: list[Path], which: Which) -> Pointer | None:
    """What the pointer would be if these were the run's checkpoints (newest first)."""
    known = [
        {**evaluation_of(folder), "step": step_of(folder), "path": folder.name}
        for folder in folders
    ]
    if which == "last":
        return known[0] if known else None
    best: Pointer | None = None
    for pointer in reversed(known):  # the first of equals
        if "val_loss" in pointer and (best is None or is_better(pointer, best)):
            best = pointer
    return best


def is_better(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Whether the checkpoint with the evaluation `new` is better than that of `old`.

    Of texts: the lower loss on the validation text. Of conversations: the higher accuracy, summed
    over replies that are held out and replies of the training. A model that knows its replies by
    heart is sure of them, and of wrong ones to other questions too: the loss on held-out replies
    rises, while the share of their tokens that it finds does not fall. By the loss, the best
    checkpoint would be one that knows no reply yet (docs/recipe.md, "Conversations").
    """
    if all("train_accuracy" in figures for figures in (new, old)):
        ours, other = (figures["accuracy"] + figures["train_accuracy"] for figures in (new, old))
        if ours != other:
            return bool(ours > other)
    return bool(new["val_loss"] < old["val_loss"])


def pointer_to_intact(run: Path, which: Which, intact: list[Path]) -> Pointer | None:
    """As `read_pointer`, but only to a checkpoint in `intact` (newest first)."""
    pointer = _stored(run, which)
    if pointer and run / pointer["path"] in intact:
        return pointer
    return pointer_among(intact, which)


def mend_pointers(run: Path) -> None:
    """Make best.json and last.json point to intact checkpoints again, where they do not."""
    intact = [folder for folder in step_folders(run) if is_intact(folder)]
    pointers: tuple[Which, ...] = ("best", "last")
    for which in pointers:
        pointer = pointer_to_intact(run, which, intact)
        if pointer and pointer != _stored(run, which):
            write_pointer(run, which, pointer["step"], pointer)


def _stored(run: Path, which: Which) -> Pointer | None:
    """The content of the file; None where it is missing or not as `write_pointer` writes it."""
    try:
        pointer = read_json(run / f"{which}.json")
        name = pointer.pop("path")
        figures = check_figures(pointer)
        is_valid = type(figures["step"]) is int and step_name(figures["step"]) == name
    except (CheckpointError, KeyError, ValueError):
        return None
    return {**figures, "path": name} if is_valid else None


def evaluation_of(folder: Path) -> Figures:
    """The evaluation stored in a checkpoint; empty where there is none or it cannot be read."""
    try:
        return check_figures(read_json(folder / "training" / "state.json")["evaluation"])
    except (CheckpointError, KeyError, ValueError):
        return {}


def check_figures(figures: Any) -> Figures:
    """Figures read from a file; ValueError unless they are numbers by name."""
    if not isinstance(figures, dict) or any(
        type(figure) not in (int, float) for figure in figures.values()
    ):
        raise ValueError("figures are not numbers")
    return figures


def check_best(step: int, figures: Any) -> Figures:
    """The best evaluation up to `step`, read from a file; ValueError or KeyError if impossible."""
    best = check_figures(figures)
    is_too_small = any(best[name] < least for name, least in MIN_FIGURES.items())
    if type(best["step"]) is not int or best["step"] > step or is_too_small:
        raise ValueError("the best evaluation is impossible")
    return best
