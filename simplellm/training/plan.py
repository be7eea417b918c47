"""How steps are computed (number format, compiled or eager), and a first estimate of how many fit a budget.

The number format and the mode are measured once, then fixed and recorded. The number of steps is followed while the run
goes on, see budget.py.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from simplellm import device as devices
from simplellm.checkpoint.step_folder import seconds_to_save
from simplellm.config.training import TrainConfig
from simplellm.errors import SettingError
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
from simplellm.training.trainer import Trainer

UNUSED_SHARE = 0.1  # of a budget, from which a text that cannot use it is reported
TIMED_STEPS, WARM_UP_STEPS = 3, 2
TIMED_EVALUATIONS, TIMED_EVALUATION_TOKENS = 3, 4096
TIMING_SHARE = 0.05  # of the budget: a slow or busy machine times fewer steps of each way (guess)
COMPILE_FROM_SECONDS = {
    "cuda": 120.0,
    "cpu": 300.0,
}  # of training, where compiling is tried: it takes up to a minute
LEAST_COMPILE_GAIN = 1.02  # the time to compile is spent either way, but a run that is resumed spends it again (guess)
Make = Callable[[TrainConfig, str], Trainer]


@dataclass(frozen=True)
class Way:
    """Execution mode of a step (number format, compiled or eager) and its measured seconds.

    `seconds` is the fastest of the timed steps: a busy machine makes steps longer, never shorter.
    """

    precision: str
    is_compiled: bool
    seconds: float
    save_seconds: float = 0.0  # of a checkpoint, where it decides how often one is saved


def plan(
    trainer: Trainer, make: Make, seconds_spent: float, notice: Callable[[str], None]
) -> Trainer:
    """The trainer with its mode fixed and its steps estimated: from timed steps, and the limits in the config.

    `make(config, precision)` builds a trainer anew; `seconds_spent` of the budget are gone already. `notice` is told
    where the text cannot use the budget.
    """
    config, started_at = trainer.config, time.perf_counter()
    way = _fastest_precision(trainer, make)
    budget = config.budget or math.inf
    seconds_left = from_main(budget * PLANNED_SHARE - seconds_spent, trainer.world, trainer.device)
    way = _compiled(trainer, make, way, seconds_left, notice) or way
    evaluation_seconds = _seconds_to_evaluate(trainer)
    preview_seconds = _seconds(trainer.sample, times=1)
    seconds_left -= time.perf_counter() - started_at
    seconds_left -= max(final_share(trainer), 1) * evaluation_seconds
    steps_that_fit = seconds_left * (1 - EVALUATION_TIME_SHARE) / way.seconds
    steps_that_fit = from_main(
        steps_that_fit, trainer.world, trainer.device
    )  # what is refused is refused by all
    if steps_that_fit < 1:
        needed = (
            math.ceil(
                (config.budget or 0)
                + (2 * way.seconds + evaluation_seconds - seconds_left) / PLANNED_SHARE
            )
            + 1
        )
        raise SettingError(
            f"a budget of {config.budget:g}s is too short here for one step and one evaluation",
            fix=f"--budget {needed}s or more",
        )
    max_steps = max(int(min(most_steps(trainer, config.max_steps), steps_that_fit)), 1)
    shown_seconds = evaluation_seconds + preview_seconds
    costs = [
        (EVALUATION_TIME_SHARE, shown_seconds / way.seconds),
        (SAVE_TIME_SHARE, way.save_seconds / way.seconds),
    ]
    interval = config.eval_interval or eval_interval(max_steps, costs)
    shared = [
        int(from_main(value, trainer.world, trainer.device))
        for value in (max_steps, interval, way.is_compiled)
    ]
    fixed = replace(
        config,
        max_steps=shared[0],
        eval_interval=shared[1],
        precision=way.precision,
        compile="on" if shared[2] else "off",
    )
    unused_seconds = seconds_left * (1 - max_steps / steps_that_fit) if config.budget else 0.0
    if unused_seconds > UNUSED_SHARE * budget:
        notice(unused_budget(trainer, budget - unused_seconds))
    planned = make(replace(fixed, warmup_steps=warmup_steps(fixed)), way.precision)
    planned.progress.evaluation_steps = evaluation_seconds / way.seconds
    planned.progress.pause_steps = (shown_seconds + way.save_seconds) / way.seconds
    if way.is_compiled:
        compile_training(planned.model)  # it worked on the trainer that was timed
    return planned


def unused_budget(trainer: Trainer, seconds: float) -> str:
    """How much of its budget a run can use, why, and what would help."""
    config, budget = trainer.config, trainer.config.budget or math.inf
    used = f"this run can use about {seconds:.0f} s of its budget of {budget:g} s"
    if most_steps(trainer, config.max_steps) < steps_of_epochs(trainer):
        return f"{used}: it has {config.max_steps} steps; a higher --max-steps would use more"
    return (
        f"{used}: after {config.max_epochs:.3g} times through {trainer.data.prepared.train_bytes:,} bytes of text more steps "
        "only overfit; more text helps, or --from a model that was trained on other text"
    )


def most_steps(trainer: Trainer, max_steps: int | None) -> float:
    """The limit apart from time: `max_steps`, and the epochs of the config."""
    return min(max_steps or math.inf, steps_of_epochs(trainer))


def steps_of_epochs(trainer: Trainer) -> float:
    """Steps after which the text was gone through `max_epochs` times; infinite where there is no such limit."""
    if trainer.config.max_epochs is None:
        return math.inf
    windows_per_step = trainer.tokens_per_step // trainer.dataset.block_size
    return math.ceil(
        trainer.config.max_epochs * trainer.dataset.windows_per_epoch / windows_per_step
    )


def _fastest_precision(trainer: Trainer, make: Make) -> Way:
    """On a CPU that multiplies bf16 in hardware both formats are timed; elsewhere the choice is made already."""
    candidates = [trainer.runtime.precision]
    if trainer.config.precision == "auto" and devices.has_fast_bf16(trainer.device):
        candidates.append("bf16")
    ways = [_timed(_scratch(trainer, make, precision), precision) for precision in candidates]
    fastest = min(range(len(ways)), key=lambda i: ways[i].seconds)
    way = ways[int(from_main(fastest, trainer.world, trainer.device))]
    return replace(way, seconds=from_main(way.seconds, trainer.world, trainer.device))


def _compiled(
    trainer: Trainer, make: Make, eager: Way, seconds_left: float, notice: Callable[[str], None]
) -> Way | None:
    """The compiled way where it is asked for, or where a long run repays what compiling takes; None elsewhere."""
    wish, worth_it_from = trainer.config.compile, COMPILE_FROM_SECONDS.get(trainer.device.type)
    planned_seconds = min(
        seconds_left, most_steps(trainer, trainer.config.max_steps) * eager.seconds
    )
    if wish == "off" or (
        wish == "auto" and (worth_it_from is None or planned_seconds < worth_it_from)
    ):
        return None
    started_at = time.perf_counter()
    scratch = _scratch(trainer, make, eager.precision)
    if not compile_or_say(scratch, notice):
        return None
    seconds = time.perf_counter() - started_at
    compiled = replace(_timed(scratch, eager.precision), is_compiled=True)
    gain = eager.seconds / compiled.seconds
    is_used = wish == "on" or gain > LEAST_COMPILE_GAIN
    notice(
        f"compiled in {seconds:.0f} s, {gain:.2f} times as fast: {'used' if is_used else 'not used'}"
    )
    return compiled if is_used else None


def compile_or_say(trainer: Trainer, notice: Callable[[str], None]) -> bool:
    """Compile the trainer's steps, and try it on one whose gradients are thrown away; False where it fails, and why is said."""
    notice("compiling the training step: up to a minute, where it was not compiled before")
    try:
        compile_training(trainer.model)
        trainer.own_gradients()
    except Exception as error:  # whatever a compiler, or the lack of one, may raise
        compile_training(trainer.model, enabled=False)
        notice(why_not_compiled(error))
        return False
    finally:
        trainer.optimizer.zero_grad()
    return True


def why_not_compiled(error: Exception) -> str:
    return f"torch.compile does not work here ({type(error).__name__}); going on without"


def _scratch(trainer: Trainer, make: Make, precision: str) -> Trainer:
    """A trainer to time steps with and throw away."""
    return make(replace(trainer.config, max_steps=trainer.config.max_steps or 1_000_000), precision)


def _timed(trainer: Trainer, precision: str) -> Way:
    def step() -> None:
        trainer.train_step()
        devices.synchronize(trainer.device)

    most_seconds = TIMING_SHARE * (trainer.config.budget or math.inf)

    def is_late(seconds: float) -> bool:
        return any_of(
            seconds >= most_seconds, trainer.world, trainer.device
        )  # all ranks take as many steps

    seconds = _seconds(step, TIMED_STEPS, WARM_UP_STEPS, is_late)
    is_wanted = trainer.config.eval_interval is None and trainer.world.is_main
    return Way(precision, False, seconds, _seconds_to_save(trainer) if is_wanted else 0.0)


def _seconds_to_evaluate(trainer: Trainer) -> float:
    """Of an evaluation on `eval_tokens`, from one on fewer."""
    scored = min(trainer.config.eval_tokens, len(trainer.data.prepared.val_ids) - 1)
    timed = min(scored, TIMED_EVALUATION_TOKENS)
    most_seconds = TIMING_SHARE * (trainer.config.budget or math.inf)
    seconds = _seconds(
        lambda: trainer.evaluate(timed),
        TIMED_EVALUATIONS,
        is_late=lambda seconds: seconds >= most_seconds,
    )
    return seconds * scored / timed


def _seconds_to_save(trainer: Trainer) -> float:
    with trainer.ema.applied():
        return seconds_to_save(
            trainer.run.path.parent, trainer.model, trainer.data.prepared.tokenizer, trainer.state()
        )


def _seconds(
    function: Callable[[], object],
    times: int,
    warm_up: int = 0,
    is_late: Callable[[float], bool] = lambda seconds: False,
) -> float:
    """The shortest of `times` calls after `warm_up` others; of fewer, but one, where all together take too long."""
    seconds: list[float] = []
    while len(seconds) < warm_up + times and (len(seconds) < 2 or not is_late(sum(seconds))):
        started_at = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started_at)
    return min(seconds[min(warm_up, len(seconds) - 1) :])
