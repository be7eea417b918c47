"""The command `runs`: list the trained runs, or compare some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from simplellm.app.commands.runs import runs_table
from simplellm.app.comparison import figure_rows, save_picture, setting_rows
from simplellm.app.console import write_json
from simplellm.app.options import RunsOptions
from simplellm.app.screen import Screen
from simplellm.app.subcommands.shared import screen_of
from simplellm.checkpoint.find_runs import find_run, list_runs
from simplellm.checkpoint.run import RunFolder
from simplellm.config.setting import SettingValue
from simplellm.errors import SettingError
from simplellm.evaluation.comparison import (
    ComparedRun,
    cautions,
    differences,
    picture_name,
)
from simplellm.evaluation.picture.save import check_picture_path
from simplellm.storage.json_files import JsonObject

FIGURES = (
    "bits_per_byte",
    "val_loss",
    "perplexity",
    "accuracy",
    "best_step",
    "steps",
    "parameters",
    "train_seconds",
)


def runs(options: RunsOptions) -> int:
    screen = screen_of(options)
    if options.chart is not None:
        check_picture_path(options.chart)
        if not options.names:
            raise SettingError(
                "--chart needs the names of the runs to draw",
                fix="simplellm runs RUN --chart FILE.svg",
            )
    if options.names:
        return _compare(options, screen)
    if options.json:
        write_json([row for run in list_runs(options.checkpoints) if (row := run.summary())])
    elif table := runs_table(options.checkpoints):
        screen.table(table.headers, table.rows)
        screen.notice(table.summary)
    else:
        screen.notice(f"no runs in {options.checkpoints}; train one: simplellm train TEXT")
    return 0


def _compare(options: RunsOptions, screen: Screen) -> int:
    """Figures and differing settings of the named runs, and their curves in one picture.

    One run alone is shown with all its settings.
    """
    runs = [ComparedRun.read(run) for run in _named(options, screen)]
    differing = differences(runs)
    if len(runs) == 1:
        differing = {name: (value,) for name, value in runs[0].settings.items()}
    found = cautions(runs)
    title = picture_name(runs)
    path = options.chart or options.checkpoints / f"{title}.svg"
    picture = save_picture(runs, path, title, screen)
    if options.json:
        write_json(_to_json(runs, differing, found, picture))
        return 0
    names = ("run", *(run.name for run in runs))
    rows = [names, *figure_rows(runs, FIGURES), *setting_rows(differing)]
    screen.table(("",) * len(names), rows)
    for caution in found:
        screen.notice(caution)
    return 0


def _named(options: RunsOptions, screen: Screen) -> list[RunFolder]:
    """The runs in the order of their names; each once."""
    found: dict[Path, RunFolder] = {}
    for name in options.names:
        run, _ = find_run(name, options.checkpoints)
        path = run.path.resolve()
        if path in found:
            screen.notice(f"{name} is named twice and shown once")
        found.setdefault(path, run)
    return list(found.values())


def _to_json(
    runs: list[ComparedRun],
    differing: Mapping[str, Sequence[SettingValue]],
    found: list[str],
    picture: str | None,
) -> JsonObject:
    return {
        "runs": [{"run": run.name, **run.figures} for run in runs],
        "differing": {name: list(values) for name, values in differing.items()},
        "comparable": not found,
        "cautions": found,
        "loss_svg": picture,
    }
