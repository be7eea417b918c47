"""Saves checkpoints on disks that may fail.

After a failed save training continues, and the next evaluation tries again. The third failure in a
row ends the training.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

import torch

from simplellm.checkpoint.generation import NOTHING_STATED, Generation
from simplellm.checkpoint.pointers import Figures
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.training_state import TrainingState
from simplellm.data.tokenizer import Tokenizer
from simplellm.errors import CheckpointError, Notice, SimpleLLMError, TrainingError
from simplellm.model.transformer import SimpleLLM
from simplellm.storage.json_files import JsonObject
from simplellm.storage.lock import FolderLock
from simplellm.training.distributed import World, any_of

MAX_FAILURES = 3  # in a row


class Saver:
    """Commits the checkpoints of one run: the disk may be full, or the run folder removed.

    lock: of the run folder; it is acquired again where the folder was removed.
    generation: special tokens and chat template that each checkpoint keeps.
    base_name: of the model that adapters belong to; see checkpoint/adapter_files.py.
    """

    def __init__(
        self,
        run: RunFolder,
        world: World,
        device: torch.device,
        notice: Notice = lambda text: None,
        lock: FolderLock | None = None,
        generation: Generation = NOTHING_STATED,
        base_name: str = "",
    ) -> None:
        self.run = run
        self.world = world
        self.device = device
        self.notice = notice
        self.lock = lock
        self.generation = generation
        self.base_name = base_name
        self.seconds = 0.0  # of the last save
        self._failures = 0  # in a row
        self._info: JsonObject = {}  # the content of run.json

    def remember_info(self) -> None:
        """Read run.json, to write it again should it be removed."""
        with contextlib.suppress(CheckpointError):
            self._info = self.run.read_info()

    def amend_info(self, **changes: Any) -> bool:
        """Change keys of run.json; False, on all ranks, where it could not be written."""
        info = {**self._info, **changes}
        is_written = bool(self._info)
        try:
            if self.world.is_main and is_written:
                self.run.write_info(info)
        except OSError:
            is_written = False
        if any_of(self.world.is_main and not is_written, self.world, self.device):
            return False
        self._info = info
        return True

    def save(
        self,
        step: int,
        model: SimpleLLM,
        tokenizer: Tokenizer,
        state: TrainingState,
        figures: Figures,
        best: bool,
    ) -> bool:
        """Save a checkpoint; False where the disk refused it.

        TrainingError after MAX_FAILURES in a row, or where a value to save is not finite.
        """
        started_at = time.perf_counter()
        failure: OSError | TrainingError | None = None
        try:
            if self.world.is_main:
                self._restore_folder()
                self.run.save(
                    step, model, tokenizer, state, figures, best, self.generation, self.base_name
                )
        except CheckpointError as error:
            failure = TrainingError(f"step {step} is not saved: {error}", fix=self.fix())
        except (OSError, TrainingError) as error:
            failure = error
        is_saved = not any_of(failure is not None, self.world, self.device)
        self._failures = 0 if is_saved else self._failures + 1
        self.seconds = time.perf_counter() - started_at
        if not is_saved:
            self._report_failure(step, failure)
        return is_saved

    def point_best(self, best: Figures) -> None:
        """Write the final figures of the best checkpoint to best.json; a failure is not fatal."""
        try:
            if self.world.is_main:
                self.run.point("best", best["step"], best)
        except OSError as error:
            path = self.run.path / "best.json"
            self.notice(f"the final score could not be written to {path}: {error.strerror}")

    def last_good(self) -> str:
        """The checkpoint from which a resumed run continues, for a message."""
        try:
            return str(self.run.last())
        except (SimpleLLMError, OSError):
            return "none, nothing was saved yet"

    def fix(self) -> str:
        return f"the last good checkpoint is {self.last_good()}"

    def _restore_folder(self) -> None:
        """Create the run folder and its run.json again where they were removed."""
        if self.lock is not None:
            self.lock.keep()
        if self._info and not (self.run.path / "run.json").exists():
            self.run.write_info(self._info)
            self.notice(f"{self.run.path} was removed; it was created again, without what it held")

    def _report_failure(self, step: int, failure: OSError | TrainingError | None) -> None:
        """A notice of a failed save, or the error that ends training; None: the main rank's."""
        is_over = isinstance(failure, TrainingError) or self._failures >= MAX_FAILURES
        if any_of(is_over, self.world, self.device):
            raise self._final_error(step, failure)
        if failure is not None:
            self.notice(
                f"step {step} could not be saved: {_why(failure)}; "
                "training goes on, the next evaluation tries again"
            )

    def _final_error(self, step: int, failure: OSError | TrainingError | None) -> TrainingError:
        if not isinstance(failure, OSError):
            return failure or TrainingError("the main process cannot save its checkpoints")
        return TrainingError(
            f"step {step} could not be saved, as {MAX_FAILURES - 1} before it: {_why(failure)}",
            fix=f"make {self.run.path} writable and resume with --resume --name {self.run.name}; "
            f"{self.fix()}",
        )


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
