"""Settings of `train` read from a TOML file (`--config`)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from simplellm.config.model import ModelConfig
from simplellm.config.setting import Settings, current_names, reject_unknown_keys
from simplellm.config.training import TrainConfig
from simplellm.errors import SettingError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: Path) -> dict[str, Any]:
    """The settings of a TOML file as one flat mapping, by their current names.

    Tables [model] and [training] may group them. A byte order mark, which Windows editors write,
    is skipped. SettingError where the file cannot be read, is not TOML or has an unknown key.
    """
    groups: dict[str, type[Settings]] = {"model": ModelConfig, "training": TrainConfig}
    flat: dict[str, Any] = {}
    for key, value in _tables(path).items():
        config = groups.get(key)
        if config and isinstance(value, dict):
            current = current_names(value, config.settings())
            reject_unknown_keys(current, config.names(), f"[{key}] of {path}")
            flat.update(value)
        else:
            flat[key] = value
    flat = current_names(flat, [*ModelConfig.settings(), *TrainConfig.settings()])
    reject_unknown_keys(flat, [*ModelConfig.names(), *TrainConfig.names()], str(path))
    return flat


def _tables(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingError(
            f"cannot read {path}: {error.strerror}", fix="name an existing TOML file"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SettingError(
            f"{path} is not TOML: {error}", fix="write lines such as n_layer = 4"
        ) from error
