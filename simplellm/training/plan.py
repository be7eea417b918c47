"""Plan of a run: how steps are executed, and a first estimate of how many fit the budget.

The execution mode is measured once, then fixed and recorded. The number of steps is adapted during
training, see budget.py.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from simplellm import device as devices
from simplellm.checkpoint.step_folder import seconds_to_save
from simplellm.config.training import TrainConfig
from simplellm.errors import Notice, SettingError
from simplellm.model.transformer import SimpleLLM
from simplellm.training.budget import (
    EVALUATION_TIME_SHARE,
    PLANNED_SHARE,
    SAVE_TIME_SHARE,
    eval_interval,
    final_share,
)
from simplellm.training.distributed import any_of, from_main
from simplellm.training.execution import compile_training
from simplellm.training.schedule import warmup_steps
from simplellm.training.step_limits import steps_limit, steps_of_epochs
from simplellm.training.trainer import Trainer

UNUSED_SHARE = 0.1  # of a budget, from which a notice says that the text cannot use it
TIMED_STEPS, WARM_UP_STEPS = 3, 2
TIMED_EVALUATIONS, TIMED_EVALUATION_TOKENS = 3, 4096
TIMING_SHARE = 0.02  # of the budget: fewer steps are timed on a slow or busy machine (guess)
SLOW_PARAMETERS = 20_000_000  # from which that takes over 3 s (measured: 40 s of 134,515,008)
# Seconds of training from which compilation is tried: it takes up to a minute.
COMPILE_FROM_SECONDS = {"cuda": 120.0, "cpu": 300.0}
MIN_COMPILE_GAIN = 1.02  # compilation is done by then, but a resumed run repeats it (guess)
MakeTrainer = Callable[[TrainConfig, str], Trainer]  # from a config and a precision


@dataclass(frozen=True)
class ExecutionMode:
    """Execution mode of a step (number format, compiled or eager) and its measured seconds.

    seconds: of the fastest timed step, because other programs make steps longer, never shorter.
    save_seconds: of a checkpoint; 0 where the evaluation interval is given.
    """

    precision: str
    is_compiled: bool
    seconds: float
    save_seconds: float = 0.0


@dataclass(frozen=True)
class _Costs:
    """Measured seconds of an evaluation and of its preview, and of steps in the chosen mode."""

    mode: ExecutionMode
    evaluation_seconds: float
    preview_seconds: float

    @property
    def shown_seconds(self) -> float:
        return self.evaluation_seconds + self.preview_seconds

    @property
    def evaluation_steps(self) -> float:
        return self.evaluation_seconds / self.mode.seconds

    @property
    def pause_steps(self) -> float:
        return (self.shown_seconds + self.mode.save_seconds) / self.mode.seconds

    def eval_interval(self, max_steps: int) -> int:
        shares = [
            (EVALUATION_TIME_SHARE, self.shown_seconds / self.mode.seconds),
            (SAVE_TIME_SHARE, self.mode.save_seconds / self.mode.seconds),
        ]
        return eval_interval(max_steps, shares)


def plan(trainer: Trainer, make: MakeTrainer, seconds_spent: float, notice: Notice) -> Trainer:
    """A new trainer with its execution mode fixed and its number of steps estimated.

    make: builds a trainer of the same run. seconds_spent: of the budget, before the call. `notice`
    is called where the text cannot use the budget. SettingError for a budget without time for one
    step and one evaluation.
    """
    started_at = time.perf_counter()
    budget = trainer.config.budget or math.inf
    if trainer.model.n_parameters >= SLOW_PARAMETERS:
        notice(f"timing steps of {trainer.model.n_parameters:,} parameters on this machine")
    mode = _fastest_precision(trainer, make)
    seconds_left = from_main(budget * PLANNED_SHARE - seconds_spent, trainer.world, trainer.device)
    mode = _compiled(trainer, make, mode, seconds_left, notice) or mode
    costs = _Costs(mode, _seconds_to_evaluate(trainer), _shortest(trainer.sample, times=1))
    seconds_left -= time.perf_counter() - started_at
    seconds_left -= max(final_share(trainer), 1) * costs.evaluation_seconds
    if trainer.is_warm:  # step 0 is evaluated and saved
        seconds_left -= costs.shown_seconds + mode.save_seconds
    steps_that_fit = from_main(
        seconds_left * (1 - EVALUATION_TIME_SHARE) / mode.seconds, trainer.world, trainer.device
    )
    if steps_that_fit < 1:  # the same on all ranks
        raise _too_short(trainer.config, costs, seconds_left)
    limit = steps_limit(trainer, trainer.config.max_steps)
    max_steps = max(int(min(limit, steps_that_fit)), 1)
    planned_config = _planned_config(trainer, costs, max_steps)
    unused_seconds = seconds_left * max(1 - limit / steps_that_fit, 0)
    if trainer.config.budget and unused_seconds > UNUSED_SHARE * budget:
        notice(unused_budget(trainer, budget - unused_seconds))
    planned = make(planned_config, mode.precision)
    planned.progress.evaluation_steps = costs.evaluation_steps
    planned.progress.pause_steps = costs.pause_steps
    if mode.is_compiled:
        compile_training(planned.model)  # it worked on the trainer that was timed
    return planned


def _planned_config(trainer: Trainer, costs: _Costs, max_steps: int) -> TrainConfig:
    """The config with all that was open fixed, the same on all ranks."""
    config, mode = trainer.config, costs.mode
    interval = config.eval_interval or costs.eval_interval(max_steps)
    max_steps, interval, is_compiled = (
        int(from_main(value, trainer.world, trainer.device))
        for value in (max_steps, interval, mode.is_compiled)
    )
    planned = replace(
        config,
        max_steps=max_steps,
        eval_interval=interval,
        precision=mode.precision,
        compile="on" if is_compiled else "off",
    )
    return replace(planned, warmup_steps=warmup_steps(planned))


def _too_short(config: TrainConfig, costs: _Costs, seconds_left: float) -> SettingError:
    budget = config.budget or 0.0
    missing = 2 * costs.mode.seconds + costs.evaluation_seconds - seconds_left
    needed = math.ceil(budget + missing / PLANNED_SHARE) + 1
    return SettingError(
        f"a budget of {budget:g}s is too short here for one step and one evaluation",
        fix=f"--budget {needed}s or more",
    )


def unused_budget(trainer: Trainer, seconds: float) -> str:
    """A notice: how much of its budget a run can use, why, and what would help."""
    config, budget = trainer.config, trainer.config.budget or math.inf
    used = f"this run can use about {seconds:.0f} s of its budget of {budget:g} s"
    if steps_limit(trainer, config.max_steps) < steps_of_epochs(trainer):
        return f"{used}: it has {config.max_steps} steps; a higher --max-steps would use more"
    return (
        f"{used}: after {config.max_epochs:.3g} passes over "
        f"{trainer.data.prepared.train_bytes:,} bytes of text more steps only overfit; "
        "more text helps, or --from a model that was trained on other text"
    )


def _fastest_precision(trainer: Trainer, make: MakeTrainer) -> ExecutionMode:
    """The number format of the steps, timed.

    Both float32 and bf16 are timed on a CPU with bf16 instructions and precision auto; elsewhere
    the format is chosen already.
    """
    candidates = [trainer.runtime.precision]
    if trainer.config.precision == "auto" and devices.has_fast_bf16(trainer.device):
        candidates.append("bf16")
    modes = [_timed(_scratch(trainer, make, precision), precision) for precision in candidates]
    fastest = min(range(len(modes)), key=lambda i: modes[i].seconds)
    mode = modes[int(from_main(fastest, trainer.world, trainer.device))]
    return replace(mode, seconds=from_main(mode.seconds, trainer.world, trainer.device))


def _compiled(
    trainer: Trainer,
    make: MakeTrainer,
    eager: ExecutionMode,
    seconds_left: float,
    notice: Notice,
) -> ExecutionMode | None:
    """The compiled mode where it is requested, or where it is faster in a long run; else None."""
    if not _may_compile(trainer, eager, seconds_left):
        return None
    started_at = time.perf_counter()
    scratch = _scratch(trainer, make, eager.precision)
    if not try_to_compile(scratch, notice):
        return None
    seconds = time.perf_counter() - started_at
    compiled = replace(_timed(scratch, eager.precision), is_compiled=True)
    gain = eager.seconds / compiled.seconds
    is_used = trainer.config.compile == "on" or gain > MIN_COMPILE_GAIN
    outcome = "used" if is_used else "not used"
    notice(f"compiled in {seconds:.0f} s, {gain:.2f} times as fast: {outcome}")
    return compiled if is_used else None


def _may_compile(trainer: Trainer, eager: ExecutionMode, seconds_left: float) -> bool:
    """Whether compilation is requested, or allowed and the run is long enough for it."""
    choice = trainer.config.compile
    if choice != "auto":
        return choice == "on"
    step_seconds = steps_limit(trainer, trainer.config.max_steps) * eager.seconds
    from_seconds = COMPILE_FROM_SECONDS.get(trainer.device.type)
    return from_seconds is not None and min(seconds_left, step_seconds) >= from_seconds


def try_to_compile(trainer: Trainer, notice: Notice) -> bool:
    """Compile the trainer's steps and compute one gradient, which is discarded.

    False, with a notice, where that fails; the trainer is in eager mode then.
    """
    notice("compiling the training step: up to a minute, where it was not compiled before")
    try:
        compile_training(trainer.model)
        trainer.own_gradients()
        if not (trainer.scaler.is_enabled() or has_finite_gradients(trainer.model)):
            raise FloatingPointError("a compiled step gives gradients that are not finite")
    except Exception as error:  # a compiler, or its absence, may raise anything
        compile_training(trainer.model, enabled=False)
        notice(why_not_compiled(error))
        return False
    finally:
        trainer.optimizer.zero_grad()
    return True


def has_finite_gradients(model: SimpleLLM) -> bool:
    """False for NaN: torch 2.13 on a CPU compiled some steps in bf16 to that (measured)."""
    gradients = (weight.grad for weight in model.parameters() if weight.grad is not None)
    return all(bool(gradient.isfinite().all()) for gradient in gradients)


def why_not_compiled(error: Exception) -> str:
    return f"torch.compile does not work here ({type(error).__name__}); continuing without"


def _scratch(trainer: Trainer, make: MakeTrainer, precision: str) -> Trainer:
    """A trainer to time steps with; its weights are discarded."""
    return make(replace(trainer.config, max_steps=trainer.config.max_steps or 1_000_000), precision)


def _timed(trainer: Trainer, precision: str) -> ExecutionMode:
    def step() -> None:
        trainer.train_step()
        devices.synchronize(trainer.device)

    max_seconds = TIMING_SHARE * (trainer.config.budget or math.inf)

    def is_late(seconds: float) -> bool:  # the same on all ranks, which take as many steps
        return any_of(seconds >= max_seconds, trainer.world, trainer.device)

    seconds = _shortest(step, TIMED_STEPS, WARM_UP_STEPS, is_late)
    is_save_timed = trainer.config.eval_interval is None and trainer.world.is_main
    save_seconds = _seconds_to_save(trainer) if is_save_timed else 0.0
    return ExecutionMode(precision, False, seconds, save_seconds)


def _seconds_to_evaluate(trainer: Trainer) -> float:
    """Seconds of an evaluation on `eval_tokens`, estimated from one on fewer tokens."""
    scored = min(trainer.config.eval_tokens, trainer.validation.n_tokens)
    timed = min(scored, TIMED_EVALUATION_TOKENS)
    max_seconds = TIMING_SHARE * (trainer.config.budget or math.inf)
    seconds = _shortest(
        lambda: trainer.evaluate(timed),
        TIMED_EVALUATIONS,
        is_late=lambda seconds: seconds >= max_seconds,
    )
    return seconds * scored / timed


def _seconds_to_save(trainer: Trainer) -> float:
    checkpoints, tokenizer = trainer.run.path.parent, trainer.data.prepared.tokenizer
    with trainer.ema.applied():
        return seconds_to_save(checkpoints, trainer.model, tokenizer, trainer.state())


def _shortest(
    function: Callable[[], object],
    times: int,
    warm_up: int = 0,
    is_late: Callable[[float], bool] = lambda seconds: False,
) -> float:
    """Seconds of the shortest of `times` calls after `warm_up` calls.

    Fewer calls are made where `is_late` is true of the seconds of all together, but at least one
    after a warm-up.
    """
    seconds: list[float] = []
    while len(seconds) < warm_up + times and (len(seconds) < 2 or not is_late(sum(seconds))):
        started_at = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started_at)
    return min(seconds[min(warm_up, len(seconds) - 1) :])
