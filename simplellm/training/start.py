"""Start of a new run: from texts and settings to a trained model."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, replace
from pathlib import Path

from simplellm.checkpoint.find_runs import free_name, new_run
from simplellm.checkpoint.frozen_base import discard_frozen_base, write_frozen_base
from simplellm.checkpoint.run import RunFolder
from simplellm.config.recipe import choose
from simplellm.config.setting import ExplicitSettings
from simplellm.data.text_files import STDIN_NAME
from simplellm.device import describe
from simplellm.errors import SettingError
from simplellm.training.budget import train_within_budget
from simplellm.training.clock import Heartbeat
from simplellm.training.context import TrainingContext
from simplellm.training.distributed import World, wait_for_all
from simplellm.training.preparation import Attempt, claimed, measured_speed, prepare_run
from simplellm.training.repetition import Repetition
from simplellm.training.result import Result
from simplellm.training.sources import Sources
from simplellm.training.step_limits import Limits
from simplellm.training.trainer import Trainer

# Second measurement of the speed divided by the first, from which the run starts again with the
# model that the recipe has for that speed (guess).
RESTART_SPEED_RATIO = 1.25


@dataclass(frozen=True)
class _Request:
    """What the user asked for."""

    sources: Sources
    given: ExplicitSettings
    run: RunFolder
    base_folder: Path | None
    repetition: Repetition | None


class _FasterThanMeasured(Exception):
    """The machine is fast enough for a larger model, and nothing has been saved yet."""

    def __init__(self, speed: float) -> None:
        self.speed = speed


def start(
    sources: Sources,
    given: ExplicitSettings,
    name: str | None,
    context: TrainingContext,
    base_folder: Path | None = None,
    repetition: Repetition | None = None,
    may_choose_base: bool = False,
) -> Result:
    """Train a new run `name` (default: after the text); `given` settings override the recipe.

    `base_folder`: a checkpoint to continue from instead of random weights. `repetition`: a recorded
    run that is trained again, with its settings instead of `given`. `may_choose_base`: without a
    `base_folder`, training starts from the base model of the package where that pays.
    """
    started_at = context.started_at or time.perf_counter()
    _refuse_stdin(sources.texts, context.world)
    run = new_run(name or _default_name(sources, context.checkpoints), context.checkpoints)
    wait_for_all(context.world)  # before anything is written, all ranks have found the name free
    request = _Request(sources, given, run, base_folder, repetition)
    with claimed(run, context) as lock, Heartbeat() as heartbeat:
        attempt = Attempt(lock, started_at, repetition=repetition, may_choose_base=may_choose_base)
        try:
            return _train(request, context, attempt, heartbeat)
        except _FasterThanMeasured as error:
            attempt = replace(attempt, speed=error.speed)
        # Outside of the handler, so that the memory of the first trainer is free again.
        context.notice("the machine is faster than measured: starting again with a larger model")
        context.sink.write({"kind": "restart"})
        return _train(request, context, attempt, heartbeat)


def _train(
    request: _Request, context: TrainingContext, attempt: Attempt, heartbeat: Heartbeat
) -> Result:
    """Plan and train; _FasterThanMeasured at most where the attempt has no speed yet."""
    run, given = request.run, request.given
    trainer, info = prepare_run(request.sources, given, run, context, request.base_folder, attempt)
    if context.world.is_main:
        _keep_base(trainer)
    trainer.clock.before = time.perf_counter() - attempt.started_at - heartbeat.suspended()
    trainer.clock.leave_out(heartbeat.suspended)
    context.notice(_summary(trainer))
    context.notice(f"validation text: {info.facts['validation_text']}")
    for line in request.repetition.report(info) if request.repetition else ():
        context.notice(line)
    if context.world.is_main:
        run.log_path.unlink(missing_ok=True)  # of a run that ended before it saved anything
        run.write_info(info.to_mapping())
    wait_for_all(context.world)
    if request.repetition:
        recorded = request.repetition.decisions
        limits = Limits.of(trainer, info.given)
        return train_within_budget(trainer, limits, recorded=recorded.after(0))
    second_look = None
    if attempt.speed is None and not trainer.is_warm:
        facts = info.facts
        second_look = functools.partial(
            _restart_if_faster, facts["corpus_bytes"], given, facts["speed"], context
        )
    return train_within_budget(trainer, Limits.of(trainer, given), second_look)


def _keep_base(trainer: Trainer) -> None:
    """Write RUN/base where adapters are trained, before their first step."""
    run, data = trainer.run, trainer.data.prepared
    if trainer.config.lora:
        generation = trainer.output.saver.generation
        write_frozen_base(run, trainer.model, data.tokenizer, generation)
    else:
        discard_frozen_base(run)


def _restart_if_faster(
    corpus_bytes: int,
    given: ExplicitSettings,
    speed: float,
    context: TrainingContext,
    trainer: Trainer,
) -> None:
    """Measure the speed again, soon after the start, while a change of the model costs little."""
    speed_now = measured_speed(context)
    if speed_now < RESTART_SPEED_RATIO * speed:
        return
    chosen, _ = choose(corpus_bytes, given, None, speed_now)
    model = trainer.model.config
    if chosen.n_layer * chosen.n_embd**2 > model.n_layer * model.n_embd**2:
        raise _FasterThanMeasured(speed_now)


def _refuse_stdin(texts: tuple[str, ...], world: World) -> None:
    if STDIN_NAME in texts and world.size > 1:
        raise SettingError(
            "several processes cannot read one standard input",
            fix="save the text to a file and name that",
        )


def _default_name(sources: Sources, checkpoints: Path) -> str:
    first = sources.texts[0]
    return free_name("stdin" if first == STDIN_NAME else Path(first).stem or "run", checkpoints)


def _summary(trainer: Trainer) -> str:
    model, config = trainer.model.config, trainer.config
    return (
        f"training {trainer.run.name}: {trainer.data.prepared.train_bytes:,} bytes, "
        f"{model.architecture} {model.n_layer}x{model.n_embd}, "
        f"{trainer.model.n_parameters:,} parameters{_trained(trainer)}, "
        f"vocabulary {model.vocab_size}, "
        f"{config.max_steps} steps of {trainer.tokens_per_step:,} tokens\n"
        f"on {describe(trainer.device, trainer.runtime.precision)}"
    )


def _trained(trainer: Trainer) -> str:
    if not trainer.config.lora:
        return ""
    n_trained = sum(weight.numel() for weight in trainer.optimizer.weights)
    return f" ({n_trained:,} trained, LoRA of rank {trainer.config.lora})"
