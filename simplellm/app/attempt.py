"""Attempts at a command: on the device that was asked for, and where a GPU fails before it did anything, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch

from simplellm.app.console import standard_input
from simplellm.app.interrupt import Interrupt
from simplellm.app.render import Screen
from simplellm.app.watch import Watch
from simplellm.checkpoint.run import Run
from simplellm.checkpoint.run_log import Sinks
from simplellm.data.corpus import STDIN_NAME, spool
from simplellm.device import choose_device, failures_reported
from simplellm.errors import DeviceFailure, SimpleLLMError, StoppedEarly
from simplellm.training.context import TrainingContext
from simplellm.training.distributed import joined
from simplellm.training.result import Result

Options = dict[str, Any]
T = TypeVar("T")


def on_device(
    options: Options,
    notice: Callable[[str], None],
    job: Callable[[torch.device], T],
    has_begun: Callable[[], bool] = lambda: False,
) -> T:
    """`job(device)` on the device that `options` ask for; once more on the CPU where an automatically chosen GPU fails.

    DeviceFailure when the device was named, or when `has_begun()` says that there is something to lose. After a
    failure the rest of the command stays on the CPU.
    """
    device = choose_device(options["device"])
    try:
        with failures_reported(device):
            return job(device)
    except DeviceFailure as failure:
        if options["device"] != "auto" or has_begun():
            raise
        notice(f"{failure}; continuing on the CPU")
    options["device"] = "cpu"
    return job(torch.device("cpu"))


# ---------------------------------------------------------------- a training


def watched(
    job: Callable[[TrainingContext], Result], options: Options, screen: Screen
) -> tuple[Result, Interrupt]:
    """Train with progress on the screen and signals remembered; a signal before the first step ends the program.

    Where `--device auto` chose a GPU that fails before the first step is done, training starts again on the CPU.
    """
    attempt = _Attempt(job, options, screen)
    return on_device(options, screen.notice, attempt, lambda: attempt.has_begun)


class _Attempt:
    """A training on the device it is called with, and whether it got past its first step."""

    def __init__(
        self, job: Callable[[TrainingContext], Result], options: Options, screen: Screen
    ) -> None:
        self._job, self._options, self._screen = job, options, screen
        self._stdin = stdin_of(options)
        self.has_begun = False

    def __call__(self, device: torch.device) -> tuple[Result, Interrupt]:
        options, screen, asked = self._options, self._screen, 0
        with (
            joined(device) as world,
            Interrupt() as interrupt,
            Watch(screen, options.get("track", ())) as watch,
        ):
            self.has_begun = (
                world.size > 1
            )  # the other processes have not failed: they cannot start again

            def should_stop() -> bool:  # asked before each step
                nonlocal asked
                asked += 1
                self.has_begun = self.has_begun or asked > 1
                return interrupt.is_set()

            context = training_context(
                options, screen, device, world, watch, should_stop, self._stdin(device)
            )
            try:
                with failures_reported(device):
                    result = self._job(context)
            except StoppedEarly as error:
                screen.notice(str(error))
                raise SystemExit(interrupt.exit_code) from error
            except DeviceFailure as failure:
                raise DeviceFailure(
                    str(failure), fix=_way_on(watch.run) if self.has_begun else failure.fix
                ) from failure
            finally:
                self.has_begun = self.has_begun or (asked > 0 and watch.has_saved)
        if result.stopped:
            command = f"simplellm train --resume --name {result.run}"
            screen.notice(f"stopped after step {result.steps} and saved; go on with: {command}")
        elif world.is_main:
            watch.report(result, device)
        return result, interrupt


def stdin_of(options: Options) -> Callable[[torch.device], BinaryIO | None]:
    """Standard input for an attempt on a device; kept in a file where it is a text and a second attempt may follow."""
    is_text = STDIN_NAME in (*options.get("texts", ()), options.get("val_data"))
    kept: BinaryIO | None = None

    def stdin(device: torch.device) -> BinaryIO | None:
        nonlocal kept
        if kept is None and not (is_text and device.type != "cpu" and options["device"] == "auto"):
            return standard_input()
        kept = kept or spool(standard_input())
        kept.seek(0)
        return kept

    return stdin


def _way_on(run: Run | None) -> str:
    """How to go on with a training that a GPU ended."""
    try:
        last = run.last() if run is not None else None
    except (SimpleLLMError, OSError):
        last = None
    if run is None or last is None:
        return "nothing was saved yet; use --device cpu"
    return f"the last good checkpoint is {last}; simplellm train --resume --name {run.name} --device cpu"


def training_context(
    options: Options,
    screen: Screen,
    device: torch.device,
    world: Any,
    watch: Watch,
    should_stop: Callable[[], bool],
    stdin: BinaryIO | None,
) -> TrainingContext:
    return TrainingContext(
        checkpoints=Path(options["checkpoints"]), device=device, world=world, sink=watch if world.is_main else Sinks(),
        notice=screen.notice, should_stop=should_stop, stdin=stdin, make_preview=watch.make_preview,
        command=tuple(options["arguments"]), started_at=options["started_at"],
    )  # fmt: skip
