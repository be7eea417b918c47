"""Settings of `train` read from a TOML file (`--config`)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simplellm.config.did_you_mean import did_you_mean
from simplellm.config.model import ModelConfig
from simplellm.config.setting import Settings, current_names
from simplellm.config.training import TrainConfig
from simplellm.errors import SettingError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

GROUPS: dict[str, type[Settings]] = {"model": ModelConfig, "training": TrainConfig}


def read_toml(path: Path) -> dict[str, Any]:
    """The settings of a TOML file as one flat mapping, by their current names.

    Tables [model] and [training] may group them. A byte order mark, which Windows editors write,
    is skipped. SettingError where the file cannot be read, is not TOML or has an unknown key.
    """
    flat: dict[str, Any] = {}
    for key, value in _tables(path).items():
        if isinstance(value, dict):
            flat.update(_group(key, value, path))
        else:
            flat[key] = value
    flat = current_names(flat, [*ModelConfig.settings(), *TrainConfig.settings()])
    settings = {item.name: item for item in (*ModelConfig.settings(), *TrainConfig.settings())}
    _refuse_unknown(flat, list(settings), str(path))
    return {name: settings[name].from_file(value) for name, value in flat.items()}


def _group(table: str, values: dict[str, Any], path: Path) -> dict[str, Any]:
    """The settings of the table [model] or [training], as they are written."""
    if table not in GROUPS:
        tables = [f"[{name}]" for name in GROUPS]
        fix = did_you_mean(f"[{table}]".lower(), tables, otherwise=f"tables: {', '.join(tables)}")
        raise SettingError(f"no table is called [{table}] in {path}", fix=fix)
    config = GROUPS[table]
    for other, fields in GROUPS.items():
        for name in current_names(values, fields.settings()):
            if other != table and name in fields.names():
                raise SettingError(
                    f"no setting is called {name!r} in [{table}] of {path}",
                    fix=f"write {name} below [{other}]",
                )
    _refuse_unknown(
        current_names(values, config.settings()), config.names(), f"[{table}] of {path}"
    )
    return values


def _refuse_unknown(values: dict[str, Any], known: Sequence[str], source: str) -> None:
    """SettingError for the first key that is no setting, with a suggestion."""
    for key in values:
        if key not in known:
            fix = did_you_mean(key, known, otherwise="simplellm train --help lists the settings")
            raise SettingError(f"no setting is called {key!r} in {source}", fix=fix)


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
