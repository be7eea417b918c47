"""Values of flags that are not settings: from text to a checked value."""

from __future__ import annotations

import os
from pathlib import Path

from simplellm.config.model import DEFAULT_CONTEXT, ModelConfig
from simplellm.config.setting import Setting
from simplellm.data.conversations.options import parse_gap
from simplellm.errors import SettingError
from simplellm.storage.user_paths import expand_user
from simplellm.training.trackers import TRACKERS

MOST_CANDIDATES = 1_000_000  # of `analyze --top`


def path(text: str) -> Path:
    return Path(expand_user(text))


def folder(text: str) -> Path:
    """The path of a folder that may not exist yet; SettingError where a file is in its place."""
    named = path(text)
    for part in (named, *named.parents):
        if os.path.isfile(part):
            raise SettingError(
                f"--checkpoints names the folder of the runs, got the file {part}",
                fix=f"name a folder, such as --checkpoints {part.parent / 'checkpoints'}",
            )
    return named


def share(text: str) -> float:
    setting = Setting("max_bad_share", "float", 0.1, "", minimum=0, maximum=1)
    return float(setting.parse(text))


def context(text: str) -> int:
    limits = ModelConfig.setting("block_size")
    setting = Setting("context", "int", DEFAULT_CONTEXT, "", limits.minimum, limits.maximum)
    return int(setting.parse(text))


def n_candidates(text: str) -> int:
    return int(Setting("top", "int", 10, "", minimum=1, maximum=MOST_CANDIDATES).parse(text))


def port(text: str) -> int:
    return int(Setting("port", "int", 8080, "", minimum=0, maximum=65_535).parse(text))


def trackers(text: str) -> tuple[str, ...]:
    setting = Setting("track", "str", "none", "", choices=tuple(TRACKERS))
    return tuple(dict.fromkeys(setting.parse(name.strip()) for name in text.split(",")))


def gap(text: str) -> float:
    """Seconds of silence; SettingError for anything else."""
    return parse_gap(text)
