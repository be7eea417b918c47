"""A comparison of runs as a table and a picture. `runs A B` and `sweep` show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from simplellm.app.screen import Screen
from simplellm.config.setting import SettingValue, show
from simplellm.errors import SimpleLLMError
from simplellm.evaluation.comparison import ComparedRun
from simplellm.evaluation.comparison_chart import comparison_svg
from simplellm.evaluation.picture.save import write_picture

FORMATS = {
    "bits_per_byte": ".3f",
    "val_loss": ".3f",
    "perplexity": ".4g",
    "accuracy": ".1%",
    "train_seconds": ".1f",
}
COUNTS = ("parameters", "tokens", "steps", "best_step")
LABELS = {"bits_per_byte": "bits/byte", "val_loss": "loss", "train_seconds": "seconds"}


def label(name: str) -> str:
    """The header of a figure: `bits_per_byte` is `bits/byte`."""
    return LABELS.get(name, name.replace("_", " "))


def figure(name: str, value: Any) -> str:
    """A figure as text; a dash where it is unknown."""
    if value is None:
        return "-"
    return format(value, "," if name in COUNTS else FORMATS[name])


def figure_rows(runs: Sequence[ComparedRun], names: Sequence[str]) -> list[tuple[str, ...]]:
    """A row for each figure: its label and its value in each run."""
    return [(label(name), *(figure(name, run.figures[name]) for run in runs)) for name in names]


def setting_rows(values: Mapping[str, Sequence[SettingValue]]) -> list[tuple[str, ...]]:
    """A row for each setting: its name and its value in each run."""
    return [(name, *(shown(name, value) for value in each)) for name, each in values.items()]


def shown(name: str, value: SettingValue) -> str:
    """The value of a setting or fact; of texts the file names."""
    if name == "texts" and isinstance(value, tuple):
        return ", ".join(Path(text).name for text in value) or "-"
    if name in ("from", "val_data", "device", "world_size", "torch") and value is None:
        return "-"
    return show(value)


def save_picture(runs: Sequence[ComparedRun], path: Path, title: str, screen: Screen) -> str | None:
    """Write the loss curves of the runs to `path` and say so; None where that fails."""
    try:
        write_picture(path, comparison_svg(runs, title), title)
    except SimpleLLMError as error:
        screen.notice(f"no picture of the curves: {error}")
        return None
    screen.notice(f"loss curves: {path}")
    return str(path)
