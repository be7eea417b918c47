"""The command `runs`: list the trained runs."""

from __future__ import annotations

from simplellm.app.commands.runs import runs_table
from simplellm.app.console import write_json
from simplellm.app.options import RunsOptions
from simplellm.app.subcommands.shared import screen_of
from simplellm.checkpoint.find_runs import list_runs


def runs(options: RunsOptions) -> int:
    screen = screen_of(options)
    if options.json:
        write_json([row for run in list_runs(options.checkpoints) if (row := run.summary())])
    elif table := runs_table(options.checkpoints):
        screen.table(table.headers, table.rows)
        screen.notice(table.summary)
    else:
        screen.notice(f"no runs in {options.checkpoints}; train one: simplellm train TEXT")
    return 0
