"""Settings: declaration, parsing and checking of one setting, and groups of them.

A group is frozen: a change makes a new object, so a refused change leaves the old one as it was.
"""

from __future__ import annotations

import dataclasses
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from functools import cache
from typing import Any, ClassVar, TypeVar

from simplellm.config.did_you_mean import did_you_mean
from simplellm.errors import SettingError

KIND_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "texts": "a list of texts",
    "seconds": "a time such as 60s, 10m or 2h",
}
MAX_QUOTE = 100  # characters of a wrong value that an error shows
SECONDS_PER_UNIT = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
SettingValue = int | float | bool | str | tuple[str, ...] | None
ExplicitSettings = Mapping[str, SettingValue]  # those that a user gave, by name
ESCAPES = {"\\n": "\n", "\\t": "\t", "\\\\": "\\"}
AUTO = "auto"
SWITCH_WORDS = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


@dataclass(frozen=True)
class Setting:
    """One setting: name, type, default, allowed values and help.

    kind: a key of KIND_NAMES.
    minimum, maximum: limits, allowed themselves unless `open_minimum` or `open_maximum`.
    unoffered: further values that a config may have, but that no user can choose.
    auto: what None means, where None is allowed; else "".
    aliases: former names. Flags, configuration files and run.json accept them; help does not
    list them.
    """

    name: str
    kind: str
    default: Any
    help: str
    minimum: float | None = None
    maximum: float | None = None
    open_minimum: bool = False
    open_maximum: bool = False
    choices: tuple[str, ...] = ()
    unoffered: tuple[str, ...] = ()
    auto: str = ""
    aliases: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        return flag_of(self.name)

    @property
    def range(self) -> str:
        """The allowed values in words: `0 to 5`, `over 0 to 1`, `a or b`."""
        if self.choices:
            return ", ".join(self.choices[:-1]) + f" or {self.choices[-1]}"
        if self.kind == "bool":
            return "on or off"
        if self.minimum is None and self.maximum is None:
            return KIND_NAMES[self.kind]
        if self.kind == "texts":
            return f"up to {self.maximum:g}"
        return self._interval

    @property
    def _interval(self) -> str:
        low = "" if self.minimum is None else f"{self.minimum:g}"
        if self.open_minimum:
            low = f"over {low}"
        if self.maximum is None:
            return low if self.open_minimum else f"{low} or more"
        return f"{low} to {'under ' if self.open_maximum else ''}{_plain(self.maximum)}"

    @property
    def default_text(self) -> str:
        return self.auto if self.default is None else show(self.default)

    def check(self, value: Any) -> Any:
        """The value converted to the setting's type; SettingError where it is not allowed."""
        if value is None and self.auto:
            return None
        converted = _convert(self.kind, value)
        if converted is None or not self._allows(converted):
            raise SettingError(
                f"{self.name} is {self._expected()}, got {_quoted(value)}",
                fix=f"the default is {self.default_text}",
            )
        return converted

    def parse(self, text: str) -> Any:
        """The value of `text` from a command line; `auto` is None where that is allowed."""
        text = text.strip() if self.kind not in ("str", "texts") else text
        if self.auto and text == AUTO:
            return None
        if self.kind == "bool":
            return self.check(SWITCH_WORDS.get(text.lower(), text))
        if self.kind in ("int", "float"):
            return self.check(_number(self.kind, text))
        return self.check((unescape(text),) if self.kind == "texts" else text)

    def from_file(self, value: Any) -> Any:
        """A value of a configuration file, which may be spelled as on the command line.

        `auto` is None, and `on` and `off` switch. Other values are returned as they are.
        """
        if self.auto and value == AUTO:
            return None
        is_switch = self.kind == "bool" and value in ("on", "off")
        return value == "on" if is_switch else value

    def _expected(self) -> str:
        """The allowed values, for an error."""
        if self.choices:
            return self.range
        kind = KIND_NAMES[self.kind]
        if self.kind in ("bool", "texts", "seconds") or self.range == kind:
            return kind
        return f"{kind}, {self.range}"

    def _allows(self, value: Any) -> bool:
        if self.choices:
            return value in self.choices
        if self.kind == "texts":
            return all(value) and (self.maximum is None or len(value) <= self.maximum)
        if isinstance(value, str):
            return bool(value) and value.isprintable()
        if isinstance(value, bool):
            return True
        low = -math.inf if self.minimum is None else self.minimum
        high = math.inf if self.maximum is None else self.maximum
        is_above = value > low if self.open_minimum else value >= low
        is_below = value < high if self.open_maximum else value <= high
        return is_above and is_below  # both are false for NaN


def unescape(text: str) -> str:
    """`text` with \\n, \\t and \\\\ replaced by a line end, a tab and a backslash."""
    return re.sub(r"\\[nt\\]", lambda match: ESCAPES[match[0]], text)


def flag_of(name: str) -> str:
    """The command-line flag of the setting `name`."""
    return "--" + name.replace("_", "-")


def _number(kind: str, text: str) -> Any:
    """The number in ASCII digits that `text` is, or the text itself where it is none."""
    try:
        return (int(text) if kind == "int" else float(text)) if text.isascii() else text
    except ValueError:
        return text


def _convert(kind: str, value: Any) -> Any:
    """`value` as the type of `kind`; None where it is of another type."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == "int":
        return int(value) if is_number and (isinstance(value, int) or value.is_integer()) else None
    if is_number and abs(value) > sys.float_info.max:
        return None
    if kind == "float":
        return float(value) if is_number else None
    if kind == "seconds":
        if isinstance(value, str):
            return _seconds(value)
        return float(value) if is_number else None
    if kind == "texts":
        return _texts(value)
    return value if isinstance(value, bool if kind == "bool" else str) else None


def _texts(value: Any) -> tuple[str, ...] | None:
    """A text, or a list of texts, as a tuple; None for anything else."""
    values = (value,) if isinstance(value, str) else value
    if not isinstance(values, (list, tuple)):
        return None
    return tuple(values) if all(isinstance(item, str) for item in values) else None


def _seconds(text: str) -> float | None:
    """Seconds of `90`, `60s`, `1.5m`, `2h`; None for anything else."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?)([smh]?)", text.strip())
    return float(match[1]) * SECONDS_PER_UNIT[match[2]] if match else None


def _quoted(value: Any) -> str:
    """A value for an error: its first characters, on one line."""
    text = repr(value)
    return text if len(text) <= MAX_QUOTE else text[:MAX_QUOTE] + "..."


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else f"{number:g}"


def show(value: Any) -> str:
    """The value of a setting as text, as a user writes it."""
    if value is None:
        return "auto"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ", ".join(repr(item) for item in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def setting(kind: str, default: Any, help: str, **limits: Any) -> Any:
    """Declare a field of a config; the metadata of the field holds its Setting."""
    return field(default=default, metadata={"setting": {"kind": kind, "help": help, **limits}})


def fact(kind: str, default: Any, help: str, **limits: Any) -> Any:
    """Declare a field that is checked like a setting, but that no user can choose."""
    return field(default=default, metadata={"fact": {"kind": kind, "help": help, **limits}})


SelfSettings = TypeVar("SelfSettings", bound="Settings")


@dataclass(frozen=True)
class Settings:
    """Base of the configs: a frozen dataclass that checks its fields when it is made."""

    title: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for item in (*self.settings(), *self.fact_settings()):
            value = getattr(self, item.name)
            if value not in item.unoffered:
                object.__setattr__(self, item.name, item.check(value))
        self.check_fit()

    def check_fit(self) -> None:
        """Raise SettingError where allowed values do not fit together."""

    @classmethod
    def settings(cls) -> tuple[Setting, ...]:
        """The fields that a user can choose."""
        return cls._declared("setting")

    @classmethod
    def fact_settings(cls) -> tuple[Setting, ...]:
        """The fields that no user can choose."""
        return cls._declared("fact")

    @classmethod
    @cache  # asked for again and again while a recipe is chosen
    def _declared(cls, key: str) -> tuple[Setting, ...]:
        return tuple(
            Setting(
                name=item.name,
                default=None if item.default is MISSING else item.default,
                **item.metadata[key],
            )
            for item in dataclasses.fields(cls)
            if key in item.metadata
        )

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return tuple(item.name for item in cls.settings())

    @classmethod
    def setting(cls, name: str) -> Setting:
        return next(item for item in cls.settings() if item.name == name)

    @classmethod
    def from_mapping(cls: type[SelfSettings], values: Mapping[str, Any]) -> SelfSettings:
        """The config of `values`; unknown keys and wrong values raise SettingError."""
        values = current_names(values, cls.settings())
        known = [item.name for item in (*cls.settings(), *cls.fact_settings())]
        reject_unknown_keys(values, known)
        return cls(**values)

    def to_mapping(self) -> dict[str, Any]:
        """All settings, and the facts that differ from their defaults."""
        values = {item.name: getattr(self, item.name) for item in self.settings()}
        facts = {item.name: getattr(self, item.name) for item in self.fact_settings()}
        defaults = {item.name: item.default for item in self.fact_settings()}
        return values | {name: fact for name, fact in facts.items() if fact != defaults[name]}


def current_names(values: Mapping[str, Any], settings: Iterable[Setting]) -> dict[str, Any]:
    """`values` with former names of settings replaced by the current ones, in the same order.

    SettingError where a setting is given by two of its names.
    """
    renamed = {alias: item.name for item in settings for alias in item.aliases}
    current: dict[str, Any] = {}
    given_as: dict[str, str] = {}
    for key, value in values.items():
        name = renamed.get(key, key)
        if name in current:
            former = key if key in renamed else given_as[name]
            raise SettingError(
                f"{former} is the former name of {name}, got both", fix=f"leave {former} out"
            )
        current[name] = value
        given_as[name] = key
    return current


def reject_unknown_keys(values: Mapping[str, Any], known: Sequence[str], source: str = "") -> None:
    """Raise SettingError for the first key of `values` that is no setting, with a suggestion."""
    for key in values:
        if key not in known:
            where = f" in {source}" if source else ""
            raise SettingError(
                f"no setting is called {key!r}{where}",
                fix=did_you_mean(str(key), known, otherwise=f"settings: {', '.join(known)}"),
            )
