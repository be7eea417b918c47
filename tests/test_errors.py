"""Every error has a message, a fix and an exit code."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from simplellm import errors
from simplellm.errors import SettingError, SimpleLLMError, is_out_of_memory, out_of_memory

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, SimpleLLMError)
]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_has_a_message_and_a_fix(kind: type[SimpleLLMError]) -> None:
    error = kind("got 3", fix="pass 4")
    assert (str(error), error.fix) == ("got 3", "pass 4")


@pytest.mark.parametrize("kind", KINDS)
def test_only_a_setting_error_has_exit_code_2(kind: type[SimpleLLMError]) -> None:
    assert kind.exit_code == (2 if kind is SettingError else 1)


ALLOCATIONS: dict[str, Callable[[], object]] = {
    "torch": lambda: torch.empty(1 << 50),
    "torch, overflow": lambda: torch.empty(1 << 62, 4),
    "numpy": lambda: np.empty(1 << 50),
    "numpy, overflow": lambda: np.empty((1 << 62, 4)),
    "python": lambda: bytearray(1 << 60),
}


@pytest.mark.parametrize("library", ALLOCATIONS)
def test_a_failed_allocation_is_recognized(library: str) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011, B017 (each library has its own type)
        ALLOCATIONS[library]()
    assert is_out_of_memory(caught.value)
    error = out_of_memory(caught.value)
    assert str(error).startswith("out of memory") and "\n" not in str(error) and error.fix


def test_other_errors_are_not_out_of_memory() -> None:
    for error in (RuntimeError("size mismatch"), ValueError("wrong"), OSError("out of memory")):
        assert not is_out_of_memory(error)


def test_the_size_of_a_failed_allocation_is_reported() -> None:
    message = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 51539607552 bytes."
    assert "51.5 GB" in str(out_of_memory(RuntimeError(message)))
