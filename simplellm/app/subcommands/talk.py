"""The program without a command: chat with the newest run, or train one first."""

from __future__ import annotations

from pathlib import Path

from simplellm.app.device_fallback import DeviceFallback
from simplellm.app.interrupt import Interrupt
from simplellm.app.options import TalkOptions
from simplellm.app.screen import Screen
from simplellm.app.subcommands.chat import chat_with
from simplellm.app.subcommands.shared import DEFAULT_TEXT, checkpoint_of, device_of, screen_of
from simplellm.app.training_run import run_training
from simplellm.checkpoint.find_runs import list_runs
from simplellm.errors import CheckpointError, TextError
from simplellm.training.result import Result
from simplellm.training.sources import Sources
from simplellm.training.start import start


def talk(options: TalkOptions) -> int:
    screen = screen_of(options)
    device = device_of(options, screen)
    try:
        folder = checkpoint_of(options, screen)
    except CheckpointError:
        if options.run or any(run.step_folders() for run in list_runs(options.checkpoints)):
            raise
        result, interrupt = _train_first(options, screen, device)
        if result.stopped:
            return interrupt.exit_code
        folder = Path(result.path)
    return chat_with(folder, options, screen, device)


def _train_first(
    options: TalkOptions, screen: Screen, device: DeviceFallback
) -> tuple[Result, Interrupt]:
    """Train a run on the default text."""
    if not DEFAULT_TEXT.is_file():
        raise TextError(
            f"there is no run, and no {DEFAULT_TEXT} to train on", fix="simplellm train YOUR-TEXT"
        ) from None
    screen.notice(
        f"no trained model in {options.checkpoints}: "
        f"training one on {DEFAULT_TEXT.name}, about a minute"
    )
    sources = Sources((str(DEFAULT_TEXT),))
    return run_training(
        lambda context: start(sources, options.settings, None, context, may_choose_base=True),
        options,
        screen,
        device,
    )
