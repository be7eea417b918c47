"""Fields of a request: each is declared as a setting, and read with its type and range."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from simplellm.config.did_you_mean import did_you_mean
from simplellm.config.setting import Setting
from simplellm.errors import SettingError
from simplellm.server.api_error import ApiError, bad_request, with_fix

MAX_NAME = 100  # characters of an unknown name that an error shows


class Fields:
    """The fields of a JSON object. Null means that a field is not given."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def raw(self, name: str) -> Any:
        """The value of a field as it is; None where it is not given."""
        return self._values.get(name)

    def value(self, setting: Setting) -> Any:
        """The checked value of a field, or the default; ApiError names the field."""
        given = self._values.get(setting.name)
        if given is None:
            return setting.default
        return checked(setting, given)

    def refuse_others(self, read: Iterable[str], accepted: Mapping[str, Callable]) -> None:
        """ApiError for the first field that is neither in `read`, nor has a value that changes
        nothing: `accepted[name](value)` is true."""
        known = set(read)
        for name, value in self._values.items():
            if name in known or value is None:
                continue
            if name not in accepted:
                raise _unknown(name, sorted(known))
            if not accepted[name](value):
                raise bad_request(
                    f"{name} is not supported; leave it out", name, "unsupported_parameter"
                )


def checked(setting: Setting, value: Any) -> Any:
    """`value` converted to the type of `setting`; ApiError where it is not allowed."""
    try:
        return setting.check(value)
    except SettingError as error:
        raise bad_request(with_fix(error), setting.name, "invalid_value") from error


def _unknown(name: str, known: list[str]) -> ApiError:
    shown = name[:MAX_NAME]
    fix = did_you_mean(shown, known, otherwise=f"parameters: {', '.join(known)}")
    return bad_request(f"no parameter is called {shown!r}; {fix}", shown, "unknown_parameter")
