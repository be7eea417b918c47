"""Every error says what, got and fix, and knows its exit code."""

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
def test_an_error_keeps_what_and_fix_apart(kind: type[SimpleLLMError]) -> None:
    error = kind("got 3", fix="pass 4")
    assert (str(error), error.fix) == ("got 3", "pass 4")


@pytest.mark.parametrize("kind", KINDS)
def test_only_a_setting_error_ends_with_2(kind: type[SimpleLLMError]) -> None:
    assert kind.exit_code == (2 if kind is SettingError else 1)
