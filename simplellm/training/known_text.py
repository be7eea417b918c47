"""Whether the validation text of a run was training text of the model that the run starts from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from simplellm.checkpoint.find_runs import run_of
from simplellm.errors import CheckpointError, Notice
from simplellm.training.run_info import RunInfo
from simplellm.training.sources import Corpora
from simplellm.training.trained_base import TrainedBase

MAX_ANCESTORS = 20  # runs that a model was trained in, one after another


def without_known_figures(
    corpora: Corpora, base: TrainedBase | None, val_fraction: float, notice: Notice
) -> Corpora:
    """The corpora, marked as not held out where an ancestor was trained on the validation text.

    base: what the run starts from; None for random weights.
    """
    for info, name in _ancestors(base.folder) if base else ():
        if _was_trained_on_validation(info, corpora, val_fraction):
            notice(
                f"the validation text was training text of {name}, so figures on it are not held "
                "out; use other text with --val-data, or the --val-fraction of that run"
            )
            return corpora._replace(train=replace(corpora.train, copied_share=1.0))
    return corpora


def _ancestors(folder: Path) -> Iterator[tuple[RunInfo, str]]:
    """The runs of this program in which the model was trained, the last one first."""
    for _ in range(MAX_ANCESTORS):
        run = run_of(folder)
        try:
            info = RunInfo.read(run)
        except CheckpointError:
            return  # from elsewhere, or deleted
        yield info, run.name
        start = info.facts.get("from")
        if not isinstance(start, str):
            return
        folder = Path(start)


def _was_trained_on_validation(info: RunInfo, corpora: Corpora, val_fraction: float) -> bool:
    """By the digests of the files. Equal texts that are split alike have the same validation text.

    The validation text is the last part, so a smaller fraction is a part of a larger one.
    """
    own = corpora.val_fingerprint if corpora.validation else corpora.fingerprint
    digests = list((own or {}).values())
    if not set(digests) & set(info.text_digests):
        return False
    is_split = not corpora.validation and not info.val_digests
    is_same_text = digests == info.text_digests
    return not (is_split and is_same_text and val_fraction <= info.training.val_fraction)
