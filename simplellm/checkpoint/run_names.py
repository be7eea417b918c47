"""Names of runs: letters of any script, valid as a file name on every system."""

from __future__ import annotations

import re
import unicodedata

from simplellm.base.packaged import BASE, NONE
from simplellm.checkpoint.step_names import STEP_NAME
from simplellm.errors import SettingError

MAX_CHARACTERS = 100
MAX_BYTES = 200  # file systems allow 255, and temporary names are longer
MAX_DERIVED_CHARACTERS = 60
WINDOWS_DEVICE = re.compile(
    r"(con|prn|aux|nul|com[0-9\u00b9\u00b2\u00b3]|lpt[0-9\u00b9\u00b2\u00b3])(\..*)?", re.IGNORECASE
)
WORDS_OF_FLAGS = (BASE, NONE)  # which --from reads as something else than a run


def is_run_name(name: str) -> bool:
    """Whether `name` is written like the name of a run."""
    return name[:1].isalnum() and len(name) <= MAX_CHARACTERS and all(map(_may_be_in_a_name, name))


def check_new_name(name: str) -> None:
    """SettingError where no new run can have this name."""
    if not _is_valid(name):
        raise bad_name(name)
    if WINDOWS_DEVICE.fullmatch(name):
        raise SettingError(
            f"{name} is the name of a device on Windows", fix="choose a name such as my-run"
        )


def name_from(stem: str) -> str:
    """A valid run name made from `stem`."""
    normal = unicodedata.normalize("NFC", stem)
    parts = "".join(char if _may_be_in_a_name(char) else " " for char in normal).split()
    plain = cut_name("-".join(parts).strip("-._"), MAX_DERIVED_CHARACTERS)
    if not _is_valid(plain) or WINDOWS_DEVICE.fullmatch(plain) or plain in WORDS_OF_FLAGS:
        plain = f"run-{plain.lstrip('-._')}" if plain else "run"
    return plain


def cut_name(name: str, characters: int) -> str:
    """The beginning of `name`: at most so many characters, in so few bytes that it is valid."""
    room = MAX_BYTES - len("run-") - len("-999999")
    short = name[:characters].encode("utf-8", "replace")[:room].decode("utf-8", "ignore")
    return short.rstrip("-._")


def bad_name(name: str) -> SettingError:
    return SettingError(
        f"a run name has letters, digits, dots, dashes and underscores, got {name!r}",
        fix="choose a name such as my-run",
    )


def _may_be_in_a_name(character: str) -> bool:
    """Letters, digits, marks of letters (vowel signs, accents), and a few ASCII signs."""
    return (
        character.isalnum() or character in "_.-" or unicodedata.category(character).startswith("M")
    )


def _is_valid(name: str) -> bool:
    """Whether `name` is a run name that no checkpoint folder has."""
    fits = len(name.encode("utf-8", "replace")) <= MAX_BYTES
    is_reserved = STEP_NAME.fullmatch(name) is not None or name.endswith(".")
    return is_run_name(name) and fits and not is_reserved
