"""Exceptions: one class per kind of cause. Every error has what was expected and got, and a fix.

    SimpleLLMError       exit code 1; base class, everything that is reported without a traceback
      SettingError       exit code 2; the command line or a setting is wrong
      TextError          the training or evaluation text
      TokenizerError     the tokenizer
      CheckpointError    a run or a checkpoint
      DeviceError        the device, also when it is out of memory
        DeviceFailure    a GPU failed; the command can be repeated on the CPU
      TrainingError      training stopped
        StoppedEarly     training was stopped before its first step
      SamplingError      logits from which no token can be sampled

Other exceptions are bugs of this package.
"""

from __future__ import annotations

from collections.abc import Callable

Notice = Callable[[str], None]  # shows one line of text to the user


class SimpleLLMError(Exception):
    """A user's mistake or a failure of the environment, reported in one or two lines.

    The message says what was expected and what was got; `fix` says what to do. `exit_code` is the
    exit code of a command that ends with the error.
    """

    exit_code = 1

    def __init__(self, what: str, *, fix: str = "") -> None:
        super().__init__(what)
        self.fix = fix


class SettingError(SimpleLLMError):
    """A flag, a setting or a combination of settings is invalid."""

    exit_code = 2


class TextError(SimpleLLMError):
    """A text is missing, unreadable, empty, too short or not text."""


class TokenizerError(SimpleLLMError):
    """A tokenizer cannot be trained or read, or does not fit the model."""


class CheckpointError(SimpleLLMError):
    """A run or a checkpoint is missing, damaged, locked or of an unknown format."""


class DeviceError(SimpleLLMError):
    """A device is missing, out of memory, or lacks a required feature."""


class DeviceFailure(DeviceError):
    """torch raised an unexpected error on a GPU; the CPU may still do the work."""


class TrainingError(SimpleLLMError):
    """Training had to stop: non-finite losses, or checkpoints that cannot be saved."""


class StoppedEarly(TrainingError):
    """Training was stopped before its first step was done; there is nothing to save."""


class SamplingError(SimpleLLMError):
    """The model gave logits from which no token can be sampled."""
