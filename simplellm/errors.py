"""What went wrong, what was got, and what to do about it: one exception per kind of cause."""

from __future__ import annotations

from collections.abc import Callable

Notice = Callable[[str], None]  # shows one line of text to the user


class SimpleLLMError(Exception):
    """A mistake or a failure that can be told in one or two lines.

    `what` says what was expected and what was got; `fix` what to do. `exit_code` is the process
    exit code of a command that ends with it.
    """

    exit_code = 1

    def __init__(self, what: str, *, fix: str = "") -> None:
        super().__init__(what)
        self.fix = fix


class SettingError(SimpleLLMError):
    """A flag, a setting or a combination of settings that cannot be."""

    exit_code = 2


class TextError(SimpleLLMError):
    """A text that is missing, empty, too short or not text."""


class TokenizerError(SimpleLLMError):
    """A tokenizer that cannot be trained, read, or used with this model."""


class CheckpointError(SimpleLLMError):
    """A run or a checkpoint that is missing, damaged or foreign."""


class DeviceError(SimpleLLMError):
    """A device that is not there, is out of memory, or cannot do what was asked of it."""


class DeviceFailure(DeviceError):
    """A GPU on which torch raised an unforeseen error; the CPU may still do the work."""


class TrainingError(SimpleLLMError):
    """A training run that had to stop before damage was done."""


class StoppedEarly(TrainingError):
    """Training was asked to stop before its first step was done; there is nothing to keep."""


class SamplingError(SimpleLLMError):
    """Logits from which no token can be drawn."""
