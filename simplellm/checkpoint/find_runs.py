"""Runs by name: which run or checkpoint a name means, all runs, and names for new runs."""

from __future__ import annotations

import contextlib
import unicodedata
from pathlib import Path

from simplellm.base.packaged import BASE, base_folder, is_present
from simplellm.checkpoint.importing.read_source import instead_of, is_model
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.run_names import bad_name, check_new_name, is_run_name, name_from
from simplellm.checkpoint.step_names import STEP_NAME, step_of
from simplellm.errors import CheckpointError, Notice
from simplellm.storage.files import TEMPORARY_MARK
from simplellm.storage.lock import LOCK_NAME, lock_holder
from simplellm.storage.manifest import MANIFEST_NAME

FILES_BEFORE_FIRST_SAVE = ("run.json", "log.jsonl", "base", LOCK_NAME)


def run_of(checkpoint: Path) -> RunFolder:
    """The run that a checkpoint belongs to; a model from elsewhere stands for itself."""
    path = checkpoint.resolve()
    return RunFolder(path.parent if step_of(path) >= 0 else path)


def find_run(name: str | None, checkpoints: Path) -> tuple[RunFolder, Path | None]:
    """The run that `name` means, and the checkpoint where `name` is the path of one.

    `name` is the name of a run in the folder `checkpoints`, the path of a run or of a checkpoint,
    or None for the newest run with a checkpoint. CheckpointError where there is no such run.
    """
    if name is None:
        return _newest_run(checkpoints), None
    is_name = is_run_name(name)
    path = _named_folder(name, checkpoints) if is_name else Path(name)
    if not is_name and "/" not in name and "\\" not in name and not path.is_dir():
        raise bad_name(name)
    if STEP_NAME.fullmatch(path.name) and path.is_dir():
        return RunFolder(path.resolve().parent), path
    if not _is_run(path):
        names = ", ".join(run.name for run in list_runs(checkpoints))
        fix = f"runs there: {names}" if names else "name the folder of your runs with --checkpoints"
        if not is_name and path.exists():
            fix = instead_of(path)
        raise CheckpointError(f"there is no run {name} in {checkpoints}", fix=fix)
    return RunFolder(path), None


def _named_folder(name: str, checkpoints: Path) -> Path:
    """The folder of the run `name`. New runs have NFC names; other systems may copy them as NFD."""
    forms = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    folders = [checkpoints / form for form in (*forms, name)]
    return next((folder for folder in folders if _is_run(folder)), folders[0])


def foreign_model(name: str, checkpoints: Path) -> Path | None:
    """The model folder or GGUF file that `name` is the path of, unless it is a run's name.

    `base` is the base model of the package.
    """
    path = base_folder() if name == BASE and is_present() else Path(name)
    if _is_run(_named_folder(name, checkpoints)) or _is_run(path) or STEP_NAME.fullmatch(path.name):
        return None
    return path if is_model(path) else None


def _is_run(path: Path) -> bool:
    return (path / "run.json").is_file() or bool(RunFolder(path).step_folders())


def _newest_run(checkpoints: Path) -> RunFolder:
    for run in list_runs(checkpoints):
        if run.step_folders():
            return run
    raise CheckpointError(
        f"there is no trained run in {checkpoints}", fix="train one: simplellm train TEXT"
    )


def find_checkpoint(name: str | None, checkpoints: Path, notice: Notice) -> Path:
    """The checkpoint that `name` means: that checkpoint, or the best one of that run.

    A model folder or GGUF file stands for itself. None is the best checkpoint of the newest run
    with an intact one.
    """
    if name is not None and (model := foreign_model(name, checkpoints)) is not None:
        return model
    run, folder = find_run(name, checkpoints)
    if folder is not None:
        return folder
    if name is not None:
        return run.best(notice)
    for candidate in list_runs(checkpoints):
        with contextlib.suppress(CheckpointError):
            return candidate.best(notice)
    raise CheckpointError(
        f"no run in {checkpoints} has an intact checkpoint", fix="train one: simplellm train TEXT"
    )


def list_runs(checkpoints: Path) -> list[RunFolder]:
    """The runs in a folder, last started first."""
    found = {path.parent for path in checkpoints.glob("*/run.json")}
    # Runs that lost their run.json:
    found |= {path.parent.parent for path in checkpoints.glob(f"*/step-*/{MANIFEST_NAME}")}
    found = {
        path for path in found if not path.name.startswith(TEMPORARY_MARK)
    }  # of a killed import
    return sorted(map(RunFolder, found), key=lambda run: (_started_at(run), run.name), reverse=True)


def _started_at(run: RunFolder) -> str:
    try:
        return str(run.read_info().get("started_at", ""))
    except CheckpointError:
        return ""


def new_run(name: str, checkpoints: Path) -> RunFolder:
    """A run called `name`, which must be unused and a valid file name on every system."""
    name = unicodedata.normalize("NFC", name)
    check_new_name(name)
    if _is_taken(checkpoints / name):
        raise _taken_name(name, checkpoints)
    return RunFolder(checkpoints / name)


def free_name(stem: str, checkpoints: Path) -> str:
    """A valid and unused run name made from `stem`, with a number appended if needed."""
    plain = name_from(stem)
    names = (plain if number == 1 else f"{plain}-{number}" for number in range(1, 1_000_000))
    return next(name for name in names if not _is_taken(checkpoints / name))


def _is_taken(folder: Path) -> bool:
    """Whether the folder is in use; remains of a run that never saved may be replaced."""
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError:  # missing, or not a folder
        return folder.exists()
    names = {name for name in names if not name.startswith(TEMPORARY_MARK)}
    return not names.issubset(FILES_BEFORE_FIRST_SAVE) or bool(lock_holder(folder))


def _taken_name(name: str, checkpoints: Path) -> CheckpointError:
    holder = lock_holder(checkpoints / name)
    if holder:
        return CheckpointError(
            f"run {name} is being trained by {holder}", fix=f"choose another --name than {name}"
        )
    return CheckpointError(
        f"run {name} already exists",
        fix=f"--resume continues it; or choose another --name than {name}",
    )
