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

import re
from collections.abc import Callable

Notice = Callable[[str], None]  # shows one line of text to the user
OUT_OF_MEMORY_MESSAGES = (  # lower case; the CPU, CUDA and numpy have no common exception
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "unable to allocate",
    "alloc_failed",
    "bad_alloc",
    "bad allocation",
    "array is too big",
    "storage size calculation overflowed",
    "numel: integer multiplication overflow",
    "can't start new thread",  # no memory for its stack
)
OUT_OF_MEMORY_FIX = "use a smaller model, context, batch or text"


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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: torch has an exception type for CUDA, the CPU only messages."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    message = str(error).lower()
    is_library_error = isinstance(error, RuntimeError | ValueError)
    return is_library_error and any(part in message for part in OUT_OF_MEMORY_MESSAGES)


def out_of_memory(error: BaseException) -> DeviceError:
    """The error to report for a failed allocation, with its size where the message has one."""
    found = re.search(r"allocate ([0-9.]+) ?(bytes|[KMGTPE]iB)", str(error))
    size = ""
    if found:
        number, unit = found.groups()
        wanted = f"{int(number) / 1e9:,.1f} GB" if unit == "bytes" else f"{number} {unit}"
        size = f": {wanted} more could not be allocated"
    return DeviceError(f"out of memory{size}", fix=OUT_OF_MEMORY_FIX)
