"""Refuses flags that a command would ignore."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from simplellm.app import options
from simplellm.app.options import Options
from simplellm.errors import SettingError


class WithoutEffect(NamedTuple):
    """Flag `name` of a command, which is used only together with flag `needs`."""

    options: type[Options]
    name: str
    needs: str
    what: str
    fix: str


RULES = (
    WithoutEffect(
        options.TrainOptions, "run", "resume", "--run names the run that --resume continues",
        "add --resume, or name a new run with --name",
    ),
    WithoutEffect(
        options.TrainOptions, "accept_changes", "resume",
        "--accept-changes belongs to --resume", "add --resume, or leave --accept-changes out",
    ),
    WithoutEffect(
        options.SweepOptions, "run", "", "a sweep trains new runs and uses no --run",
        "leave --run out",
    ),
    WithoutEffect(
        options.ImportOptions, "run", "", "import makes a new run and uses no --run",
        "name the new run with --name",
    ),
    *(
        WithoutEffect(
            options.FindLrOptions, name, "", "--find-lr writes no run and uses no "
            f"--{name.replace('_', '-')}", f"leave --{name.replace('_', '-')} out",
        )
        for name in ("run", "name", "resume", "accept_changes", "track")
    ),
    WithoutEffect(
        options.RunsOptions, "yes", "prune", "--yes belongs to --prune",
        "add --prune, or leave --yes out",
    ),
    *(
        WithoutEffect(
            kind, "max_bad_share", "skip_bad", "--max-bad-share belongs to --skip-bad",
            "add --skip-bad, or leave --max-bad-share out",
        )
        for kind in (options.TrainOptions, options.FindLrOptions, options.EvaluateOptions)
    ),
)  # fmt: skip


def refuse_flags_without_effect(command: type[Options], given: Collection[str]) -> None:
    """SettingError if a flag in `given` (names of options) has no effect on this command."""
    for rule in RULES:
        if rule.options is command and rule.name in given and rule.needs not in given:
            raise SettingError(f"{rule.what}, got it without" if rule.needs else rule.what,
                               fix=rule.fix)  # fmt: skip
