"""Paths as users write them: `~` is the home folder."""

from __future__ import annotations

import os

from simplellm.errors import SettingError


def expand_user(text: str) -> str:
    """`text` with a leading `~` replaced by the home folder.

    SettingError if that folder is unknown: otherwise a folder called `~` would be created.
    """
    expanded = os.path.expanduser(text)
    if expanded == text and text.startswith("~") and not os.path.lexists(text):
        raise SettingError(
            f"the home folder of {text} is unknown", fix="write the whole path instead of ~"
        )
    return expanded
