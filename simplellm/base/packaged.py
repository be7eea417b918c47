"""The base model in the package: a small model that trainings start from where that pays.

Its folder is a model folder with weights in 8 bits and a manifest, like a checkpoint. A copy of the
package without the folder works too: then every training starts with random weights.
"""

from __future__ import annotations

from pathlib import Path

from simplellm.errors import CheckpointError
from simplellm.storage.manifest import MANIFEST_NAME

BASE = "base"  # what --from and --run call it
NONE = "none"  # --from: random weights
FOLDER = Path(__file__).parent / "model"


def is_present() -> bool:
    return (FOLDER / MANIFEST_NAME).is_file()


def is_base(folder: Path | None) -> bool:
    """Whether `folder` is that of the base model."""
    return folder is not None and folder.resolve() == FOLDER.resolve()


def base_folder() -> Path:
    """The folder of the base model; CheckpointError where this copy of the package has none."""
    if not is_present():
        raise CheckpointError(
            f"this copy of the package has no base model in {FOLDER}",
            fix="use --from none, or install the package again",
        )
    return FOLDER
