"""Saves that may fail: training goes on, the next evaluation tries again, and the third failure in a row ends it."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import torch

from simplellm.checkpoint.run import Run
from simplellm.checkpoint.training_state import TrainingState
from simplellm.data.tokenizer import Tokenizer
from simplellm.errors import CheckpointError, Notice, SimpleLLMError, TrainingError
from simplellm.model.transformer import SimpleLLM
from simplellm.storage.lock import FolderLock
from simplellm.training.distributed import World, any_of

MOST_FAILURES = 3  # in a row


class Saver:
    """Commits the checkpoints of one run, through disks that are full, slow to come back, or gone with the run's folder.

    `lock`: the right to write there, taken anew where the folder has vanished.
    """

    def __init__(
        self,
        run: Run,
        world: World,
        device: torch.device,
        notice: Notice = lambda text: None,
        lock: FolderLock | None = None,
    ) -> None:
        self.run, self.world, self.device, self.notice, self.lock = run, world, device, notice, lock
        self.seconds = 0.0  # the last save took
        self._failures = 0
        self._info: dict[str, Any] = {}

    def remember_info(self) -> None:
        """Called when run.json is there: should it vanish, it is written again."""
        with contextlib.suppress(CheckpointError):
            self._info = self.run.read_info()

    def amend_info(self, **changes: Any) -> bool:
        """Whether run.json says `changes` from now on; where it cannot be written it stays as it is, everywhere."""
        info, is_written = {**self._info, **changes}, bool(self._info)
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
        figures: dict[str, Any],
        best: bool,
    ) -> bool:
        """Whether the checkpoint is on the disk.

        TrainingError after MOST_FAILURES in a row, or when what is to be saved must not be.
        """
        started_at = time.perf_counter()
        failure: OSError | TrainingError | None = None
        try:
            if self.world.is_main:
                self._save(step, model, tokenizer, state, figures, best)
        except (OSError, TrainingError) as error:
            failure = error
        is_saved = not any_of(failure is not None, self.world, self.device)
        self._failures = 0 if is_saved else self._failures + 1
        self.seconds = time.perf_counter() - started_at
        if not is_saved:
            self._tell(step, failure)
        return is_saved

    def _save(
        self,
        step: int,
        model: SimpleLLM,
        tokenizer: Tokenizer,
        state: TrainingState,
        figures: dict[str, Any],
        best: bool,
    ) -> None:
        try:
            self._restore_folder()
            self.run.save(step, model, tokenizer, state, figures, best)
        except CheckpointError as error:
            raise TrainingError(f"step {step} is not saved: {error}", fix=self.fix()) from error

    def point_best(self, best: dict[str, Any]) -> None:
        """Let best.json have the last figures of the best checkpoint; it is none the worse where that fails."""
        try:
            if self.world.is_main:
                self.run.point("best", best["step"], best)
        except OSError as error:
            self.notice(
                f"the final score could not be kept in {self.run.path / 'best.json'}: {error.strerror}"
            )

    def last_good(self) -> str:
        """The checkpoint to go on from, for a message."""
        try:
            return str(self.run.last())
        except (SimpleLLMError, OSError):
            return "none, nothing was saved yet"

    def fix(self) -> str:
        return f"the last good checkpoint is {self.last_good()}"

    def _restore_folder(self) -> None:
        """Make the run's folder and its run.json again where they have vanished."""
        if self.lock is not None:
            self.lock.keep()
        if self._info and not (self.run.path / "run.json").exists():
            self.run.write_info(self._info)
            self.notice(
                f"{self.run.path} had vanished; it was made anew, with what is saved from now on"
            )

    def _tell(self, step: int, failure: OSError | TrainingError | None) -> None:
        """Say what failed (None: the main process does), or end the training with it."""
        is_over = isinstance(failure, TrainingError) or self._failures >= MOST_FAILURES
        if any_of(is_over, self.world, self.device):
            raise self._end(step, failure)
        if failure is not None:
            self.notice(
                f"step {step} could not be saved: {_why(failure)}; training goes on, the next evaluation tries again"
            )

    def _end(self, step: int, failure: OSError | TrainingError | None) -> TrainingError:
        if isinstance(failure, OSError):
            return TrainingError(
                f"step {step} could not be saved, as {MOST_FAILURES - 1} before it: {_why(failure)}",
                fix=f"make {self.run.path} writable and go on with --resume --name {self.run.name}; {self.fix()}",
            )
        return failure or TrainingError("the main process cannot save its checkpoints")


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
