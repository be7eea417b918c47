"""Every error has a message, a fix and an exit code."""

from __future__ import annotations

import pytest

from simplellm import errors
from simplellm.errors import SettingError, SimpleLLMError

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
