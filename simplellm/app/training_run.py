"""Runs a training with progress on the screen, signal handling and fallback to the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import BinaryIO

import torch

from simplellm.app.console import standard_input
from simplellm.app.device_fallback import DeviceFallback
from simplellm.app.interrupt import Interrupt
from simplellm.app.options import Options, TrainingOptions
from simplellm.app.screen import Screen
from simplellm.app.training_monitor import TrainingMonitor
from simplellm.checkpoint.run import RunFolder
from simplellm.checkpoint.run_log import Sinks
from simplellm.data.source import spool
from simplellm.device import failures_reported
from simplellm.errors import DeviceFailure, SimpleLLMError, StoppedEarly
from simplellm.training.context import TrainingContext
from simplellm.training.distributed import World, joined
from simplellm.training.result import Result

Job = Callable[[TrainingContext], Result]


def run_training(
    job: Job,
    options: Options,
    screen: Screen,
    device: DeviceFallback,
    trackers: Sequence[str] = (),
) -> tuple[Result, Interrupt]:
    """Call `job` with a training context; returns its result, and the signals that arrived.

    A signal before the first step ends the program. If an automatically chosen GPU fails before
    the first step is done, the training starts again on the CPU.
    """
    attempt = _Attempt(job, options, screen, trackers, stdin_source(options, device))
    return device.run(attempt, is_final=lambda: attempt.is_final)


class _Attempt:
    """A training on the device it is called with. `is_final`: it must not be started again."""

    def __init__(
        self,
        job: Job,
        options: Options,
        screen: Screen,
        trackers: Sequence[str],
        stdin: Callable[[torch.device], BinaryIO | None],
    ) -> None:
        self._job = job
        self._options = options
        self._screen = screen
        self._trackers = trackers
        self._stdin = stdin
        self.is_final = False

    def __call__(self, device: torch.device) -> tuple[Result, Interrupt]:
        with (
            joined(device, self._screen.notice) as world,
            Interrupt(has_peers=world.size > 1) as interrupt,
            TrainingMonitor(self._screen, self._trackers) as monitor,
        ):
            result = self._train(device, world, interrupt, monitor)
        return result, interrupt

    def _train(
        self, device: torch.device, world: World, interrupt: Interrupt, monitor: TrainingMonitor
    ) -> Result:
        self.is_final = world.size > 1  # the other processes have not failed and do not restart
        n_started = 0  # steps

        def should_stop() -> bool:  # called before each step
            nonlocal n_started
            n_started += 1
            self.is_final = self.is_final or n_started > 1
            return interrupt.is_set()

        stdin = self._stdin(device)
        context = training_context(
            self._options, self._screen, device, world, monitor, should_stop, stdin
        )
        try:
            with failures_reported(device):
                result = self._job(context)
            monitor.keep_panel()
        except StoppedEarly as error:
            self._screen.notice(str(error))
            raise SystemExit(interrupt.exit_code) from error
        except DeviceFailure as failure:
            fix = _how_to_resume(monitor.run, self._options) if self.is_final else failure.fix
            raise DeviceFailure(str(failure), fix=fix) from failure
        finally:
            self.is_final = self.is_final or (n_started > 0 and monitor.has_saved)
        if result.stopped:
            command = self._options.command(f"train --resume --name {result.run}")
            self._screen.notice(
                f"stopped after step {result.steps} and saved. Continue with: {command}"
            )
        elif world.is_main:
            monitor.report(result, device)
            if isinstance(self._options, TrainingOptions) and self._options.chart is not None:
                monitor.save_chart(self._options.chart)
        monitor.show_trackers()
        return result


def training_context(
    options: Options,
    screen: Screen,
    device: torch.device,
    world: World,
    monitor: TrainingMonitor,
    should_stop: Callable[[], bool],
    stdin: BinaryIO | None,
) -> TrainingContext:
    return TrainingContext(
        checkpoints=options.checkpoints,
        device=device,
        world=world,
        sink=monitor if world.is_main else Sinks(),
        notice=screen.notice,
        should_stop=should_stop,
        stdin=stdin,
        make_preview=monitor.make_preview,
        command=options.arguments,
        started_at=options.started_at,
    )


def stdin_source(
    options: Options, device: DeviceFallback
) -> Callable[[torch.device], BinaryIO | None]:
    """A function that gives standard input to an attempt on a device, from the start each time.

    Standard input is copied into a file if it is a text and a second attempt may follow.
    """
    copy: BinaryIO | None = None

    def stdin(attempt_device: torch.device) -> BinaryIO | None:
        nonlocal copy
        may_repeat = attempt_device.type != "cpu" and device.is_automatic
        if copy is None and not (options.reads_stdin and may_repeat):
            return standard_input()
        copy = copy or spool(standard_input())
        copy.seek(0)
        return copy

    return stdin


def _how_to_resume(run: RunFolder | None, options: Options) -> str:
    """How to continue a training that a GPU failure ended."""
    try:
        last = run.last() if run is not None else None
    except (SimpleLLMError, OSError):
        last = None
    if run is None or last is None:
        return "nothing was saved yet; use --device cpu"
    command = options.command(f"train --resume --name {run.name} --device cpu")
    return f"the last good checkpoint is {last}; {command}"
