"""The command `verify`: check the checkpoints of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from simplellm.app.console import write_json
from simplellm.app.options import VerifyOptions
from simplellm.app.subcommands.shared import screen_of
from simplellm.checkpoint.find_runs import find_run, foreign_model, run_of
from simplellm.checkpoint.frozen_base import frozen_base, has_frozen_base, verify_frozen_base
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.step_folder import verify_checkpoint
from simplellm.checkpoint.step_names import step_of
from simplellm.errors import CheckpointError, TokenizerError


@dataclass(frozen=True)
class Verdict:
    """One checkpoint and the damage found in it, if any. The fields are the keys of --json.

    The frozen model of a LoRA run, without which it cannot be resumed, is one too, of step 0.
    """

    run: str
    path: str
    step: int
    whole: bool
    problem: str | None


def verify(options: VerifyOptions) -> int:
    """Returns 1 if a checkpoint is damaged or incomplete."""
    screen = screen_of(options)
    run, named = _requested(options)
    verdicts = [_verdict(run, folder) for folder in ([named] if named else run.step_folders())]
    # a training may have deleted an old checkpoint meanwhile
    verdicts = [verdict for verdict in verdicts if verdict.whole or Path(verdict.path).exists()]
    if verdicts and not named and has_frozen_base(run):
        verdicts.append(_verdict_of_base(run))
    if not verdicts:
        raise CheckpointError(
            f"run {run.name} has no checkpoint",
            fix=f"train it: simplellm train TEXT --name {run.name}",
        )
    if options.json:
        write_json([asdict(verdict) for verdict in verdicts])
    else:
        rows = [(verdict.path, verdict.problem or "whole") for verdict in verdicts]
        screen.table(("checkpoint", "state"), rows)
    return 0 if all(verdict.whole for verdict in verdicts) else 1


def _requested(options: VerifyOptions) -> tuple[RunFolder, Path | None]:
    """The run to check, and one checkpoint or a model from elsewhere where that was named."""
    name = options.checkpoint or options.run
    model = foreign_model(name, options.checkpoints) if name else None
    return (run_of(model), model) if model else find_run(name, options.checkpoints)


def _verdict(run: RunFolder, folder: Path) -> Verdict:
    return _checked(run, folder, lambda: verify_checkpoint(folder))


def _verdict_of_base(run: RunFolder) -> Verdict:
    return _checked(run, frozen_base(run), lambda: verify_frozen_base(run))


def _checked(run: RunFolder, folder: Path, check: Callable[[], None]) -> Verdict:
    problem = None
    try:
        check()
    except (CheckpointError, TokenizerError) as error:
        problem = str(error)
    step = max(step_of(folder), 0)
    return Verdict(run.name, str(folder), step, problem is None, problem)
